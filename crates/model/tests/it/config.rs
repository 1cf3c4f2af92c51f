//! What a configuration file may say, and what is said about a wrong one.

use mainstay_model::config::{
    Config, Finding, lacks_password, read, read_sound, schema, tellable, without_password,
};
use mainstay_model::{Class, Classify};
use proptest::prelude::*;

const BASE: &str = r#"[host]
name = "db1"
state-dir = "/var/lib/mainstay"

[vault]
url = "/srv/vault"
password-file = "/etc/mainstay/vault.password"
"#;

/// The configuration that the documentation shows.
const SHOWN: &str = r#"
[service.docs]
engine = "files"
path = "/srv/docs"
role = "primary"
password-file = "/etc/mainstay/docs.password"
schedule = "0 * * * *"
keep = { last = 3, daily = 7 }

[service.shop]
engine = "postgres"
url = "postgres://backup@/postgres?host=/run/postgresql"
data-dir = "/var/lib/postgresql/15/main"
start = "systemctl start postgresql"
stop = "systemctl stop postgresql"
"#;

fn findings(text: &str) -> Vec<String> {
    match Config::parse(text, "m.toml") {
        Ok(_) => Vec::new(),
        Err(e) => e.findings.iter().map(ToString::to_string).collect(),
    }
}

/// What is wrong with one service of engine `files` that has these lines besides.
fn files(lines: &str) -> Vec<String> {
    findings(&format!("{BASE}[service.a]\nengine = \"files\"\npath = \"/srv/a\"\n{lines}"))
}

fn service(lines: &str) -> Vec<String> {
    findings(&format!("{BASE}[service.a]\n{lines}"))
}

#[test]
fn the_configuration_that_is_shown_is_valid() {
    let checked = read(&format!("{BASE}{SHOWN}"), "m.toml").unwrap();
    assert_eq!(checked.warnings, []);
    let config = checked.config;
    assert_eq!(config.service.len(), 2);
    assert_eq!(config.validate(), []);
    let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn syntax_errors_have_a_line_and_a_column() {
    assert_eq!(findings("[host\nname = 1\n")[0].split(": ").next(), Some("line 1, column 6"));
    assert!(findings("a = 1\na = 2\n")[0].starts_with("line 2, column 1: duplicate key"));
    let wrong_type = findings(&BASE.replace("\"db1\"", "3"));
    assert_eq!(wrong_type, ["line 2, column 8: invalid type: integer `3`, expected a string"]);
    let columns_are_characters = findings("[vault]\nurl = \"ü\" x\n");
    assert!(
        columns_are_characters[0].starts_with("line 2, column 11: "),
        "{columns_are_characters:?}"
    );
    let nothing = findings("");
    assert_eq!(nothing.len(), 1);
    assert!(nothing[0].contains("missing field `host`"), "{nothing:?}");
}

#[test]
fn the_message_tells_everything_and_what_to_do() {
    let text = format!("{BASE}[service.a]\nengine = \"files\"\nrpo = \"x\"\n");
    let e = Config::parse(&text, "/etc/m.toml").unwrap_err();
    assert_eq!(
        e.to_string(),
        "/etc/m.toml has 2 errors\n  line 8: service.a: engine files needs `path` or `paths`\n  \
         line 10: service.a.rpo: \"x\" is not a duration; write it as 30s, 5m, 1h30m, 14d or 2w"
    );
    assert_eq!((e.class(), e.class().exit_code()), (Class::Invalid, 1));
    assert!(e.hint().unwrap().starts_with("Correct it"));
}

#[test]
fn misspelt_keys_are_all_told_with_what_was_meant() {
    let found = findings(&format!(
        "{BASE}[service.a]\nengine = \"files\"\npth = \"/srv\"\nexclude_caches = true\n\
         keep = {{ dayly = 3 }}\n[service.a.hooks]\nfenze = \"x\"\nzzzzzzzz = 1\n[alrts]\n"
    ));
    assert_eq!(
        found,
        [
            "line 10: service.a.pth: unknown key; did you mean `path`?",
            "line 11: service.a.exclude_caches: unknown key; did you mean `exclude-caches`?",
            "line 12: service.a.keep.dayly: unknown key; did you mean `daily`?",
            "line 14: service.a.hooks.fenze: unknown key; did you mean `fence`?",
            "line 15: service.a.hooks.zzzzzzzz: unknown key",
            "line 16: alrts: unknown key; did you mean `alerts`?",
        ]
    );
}

#[test]
fn all_contradictions_are_told_at_once() {
    let found = files(
        "paths = [\"/srv/b\"]\nurl = \"x://y\"\nunit = \"a.service\"\nstart = \"x\"\n\
         quiesce = \"freeze\"\nschedule = \"* * *\"\ntime-zone = \"Mars/Base\"\n\
         password-file = \"p\"\npassword-env = \"P\"\n",
    );
    let keys: Vec<&str> = found.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "service.a.url",
            "service.a.paths",
            "service.a.password-file",
            "service.a.start",
            "service.a.quiesce",
            "service.a.time-zone",
            "service.a.schedule",
            "service.a.password-env",
        ],
        "{found:#?}"
    );
}

#[test]
fn each_contradiction_by_itself() {
    for (lines, expected) in [
        ("paths = [\"/srv/b\"]", "service.a.paths: contradicts `path`"),
        ("unit = \"x\"\nstop = \"x\"", "service.a.stop: contradicts `unit`"),
        ("unit = \"x\"\nstatus = \"x\"", "service.a.status: contradicts `unit`"),
        ("unit = \" \"", "service.a.unit: is empty"),
        ("password-file = \"/p\"\npassword-command = \"x\"", "contradicts `password-file`"),
        ("password-env = \"\"", "service.a.password-env: is empty"),
        ("quiesce = \"stop\"", "\"stop\" needs `unit`, or `start` and `stop`"),
        ("quiesce = \"stop\"\nstart = \"x\"", "\"stop\" needs `unit`, or `start` and `stop`"),
        ("quiesce = \"freeze\"", "\"freeze\" needs `hooks.freeze` and `hooks.thaw`"),
        ("quiesce-limit = \"soon\"", "is not a duration"),
        ("hook-timeout = \"0s\"", "is no time at all"),
        ("quiesce = \"freeze\"\nhooks = { freeze = \"x\" }", "needs `hooks.freeze` and `hooks"),
        ("hooks = { freeze = \"x\", thaw = \"y\" }", "never runs without"),
        ("hooks = { fence = \"\" }", "service.a.hooks.fence: is empty"),
        ("schedule = \"61 * * * *\"", "is not cron syntax"),
        ("schedule = \"0 0 * * * *\"", "is not cron syntax"),
        ("schedule = \"\"", "is not cron syntax"),
        ("schedule = \"0 0 30 2 *\"", "no such day exists"),
        ("schedule = \"0 * * * *\"\ntime-zone = \"CEST\"", "is not a time zone"),
        ("rpo = \"5\"", "is not a duration"),
        ("rpo = \"0m\"", "service.a.rpo: is no time at all"),
        ("keep = {}", "service.a.keep: keeps nothing"),
        ("keep = { within = \"two weeks\" }", "service.a.keep.within: \"two weeks\" is not a"),
        ("keep = { last = -1 }", "invalid value: integer `-1`"),
        ("keep = { last = 5000000000 }", "invalid value: integer `5000000000`"),
        ("exclude-larger-than = \"2 GB.\"", "is not a size"),
        ("exclude = [\"\"]", "is no pattern"),
        ("chunk-size = \"1 KiB\"", "service.a.chunk-size: has to be between 4 KiB and 8 MiB"),
        ("chunk-size = \"16 MiB\"", "has to be between 4 KiB and 8 MiB"),
        ("chunk-size = \"many\"", "is not a size"),
        ("compression = \"zip\"", "unknown variant `zip`"),
        ("data-dir = \"/d\"", "means nothing to engine files (it is for postgres)"),
        ("exporter = \"/d\"", "means nothing to engine files (it is for script)"),
        ("password-file = \"p\"", "\"p\" is relative"),
        ("password-file = \"\"", "service.a.password-file: is empty"),
        ("password-file = \"/p\\u0007\"", "control character"),
        ("password-file = \"/a/../p\"", "has `..` in it"),
        ("role = \"broken\"", "unknown variant `broken`, expected `primary` or `standby`"),
    ] {
        let found = files(&format!("{lines}\n"));
        assert!(found.iter().any(|line| line.contains(expected)), "{lines}: {found:#?}");
        assert_eq!(found.len(), 1, "{lines}: {found:#?}");
    }
}

#[test]
fn what_is_right_is_let_through() {
    for lines in [
        "unit = \"x.service\"\nquiesce = \"stop\"\nquiesce-limit = \"2h\"\nhook-timeout = \"5m\"",
        "start = \"a\"\nstop = \"b\"\nquiesce = \"stop\"",
        "quiesce = \"freeze\"\nhooks = { freeze = \"a\", thaw = \"b\" }",
        "role = \"standby\"\nschedule = \"*/5 * * * MON-FRI\"\ntime-zone = \"Europe/Berlin\"",
        "schedule = \"@daily\"",
        "schedule = \"0 0 29 2 *\"",
        "keep = { within = \"1w\" }\nrpo = \"1h30m\"\nexclude-larger-than = \"2 GiB\"",
        "password-command = \"pass show a\"",
        "chunk-size = \"4 KiB\"\ncompression = \"max\"",
    ] {
        assert_eq!(files(lines), Vec::<String>::new(), "{lines}");
    }
    assert_eq!(
        service("engine = \"files\"\npaths = [\"/srv/a\", \"/srv/b\"]\n"),
        Vec::<String>::new()
    );
}

#[test]
fn each_engine_names_what_it_needs() {
    for (lines, expected) in [
        ("engine = \"files\"", &["`path` or `paths`"][..]),
        ("engine = \"sqlite\"", &["`path`, the database file"]),
        ("engine = \"postgres\"", &["`url`", "`data-dir`"]),
        ("engine = \"postgres\"\nurl = \"postgres:///\"", &["`data-dir`"]),
        ("engine = \"script\"", &["`path`", "`exporter`", "`importer`"]),
        ("engine = \"script\"\npath = \"/b\"\nexporter = \"/e\"", &["`importer`"]),
        ("engine = \"mariadb\"", &[]),
    ] {
        let found = service(lines);
        assert_eq!(found.len(), expected.len(), "{lines}: {found:#?}");
        for (line, expected) in found.iter().zip(expected) {
            assert!(line.contains(expected), "{lines}: {line}");
        }
    }
}

#[test]
fn an_unknown_engine_is_an_external_one_unless_it_is_nearly_a_built_in_one() {
    for external in ["redis", "mongodb", "zodb", "qemu", "ldap", "my-engine2"] {
        assert_eq!(service(&format!("engine = \"{external}\"")), Vec::<String>::new());
    }
    for (near, meant) in [
        ("file", "files"),
        ("Files", "files"),
        ("fiels", "files"),
        ("postgresql", "postgres"),
        ("PostgreSQL", "postgres"),
        ("pg", "postgres"),
        ("postgers", "postgres"),
        ("sqlite3", "sqlite"),
        ("sqllite", "sqlite"),
        ("scripts", "script"),
    ] {
        let found = service(&format!("engine = \"{near}\""));
        assert_eq!(
            found,
            [format!("line 9: service.a.engine: unknown engine; did you mean \"{meant}\"?")]
        );
    }
    for bad in ["", "../evil", "a b", "x;y", "REDIS", "a/b"] {
        let found = service(&format!("engine = \"{bad}\""));
        assert!(found[0].contains("use small letters"), "{bad}: {found:?}");
    }
}

#[test]
fn the_vault_our_state_and_what_is_protected_stay_apart() {
    let one = |path: &str, more: &str| {
        service(&format!("engine = \"files\"\npath = \"{path}\"\n{more}")).join("\n")
    };
    assert!(one("/srv", "").contains("holds the vault /srv/vault: every backup would back up"));
    assert_eq!(one("/srv", "exclude = [\"/srv/vault\"]"), "");
    assert!(one("/srv", "exclude = [\"/srv/vault/docs\"]").contains("holds the vault"));
    assert!(one("/srv/vault", "").contains("holds the vault"));
    assert!(one("/srv/vault/docs", "").contains("lies in the vault"));
    assert_eq!(one("/srv/vaults", ""), "");
    assert!(one("/var", "").contains("holds host.state-dir /var/lib/mainstay"));
    assert!(one("/var/lib/mainstay/x", "").contains("lies in host.state-dir"));
    assert_eq!(one("/var", "exclude = [\"/var/lib\"]"), "");
    assert_eq!(one("/", "").lines().count(), 2);
    let inside = findings(&BASE.replace("/var/lib/mainstay", "/srv/vault/state"));
    assert!(inside[0].contains("host.state-dir: lies inside the vault"), "{inside:?}");
}

#[test]
fn services_do_not_share_data() {
    let two = |a: &str, b: &str| {
        findings(&format!("{BASE}[service.a]\n{a}\n[service.b]\n{b}\n")).join("\n")
    };
    let files = |path: &str| format!("engine = \"files\"\npath = \"{path}\"");
    let database = "engine = \"sqlite\"\npath = \"/srv/app/db\"";
    assert!(two(&files("/srv/app"), &files("/srv/app")).contains("is also"));
    assert!(two(&files("/srv/app"), &files("/srv/app/x")).contains(
        "service.b.path: /srv/app/x lies in /srv/app of service a: a restore of one would \
         overwrite the other"
    ));
    assert!(
        two(&files("/srv/app/x"), &files("/srv/app")).contains("service.b.path: /srv/app holds")
    );
    assert!(two(&files("/srv/app"), database).contains("lies in"));
    let leaving_out = files("/srv/app") + "\nexclude = [\"/srv/app/db\"]";
    assert_eq!(two(&leaving_out, database), "");
    assert_eq!(two(database, &leaving_out), "");
    assert_eq!(two(&files("/srv/app"), &files("/srv/app2")), "");
    let own = service("engine = \"files\"\npaths = [\"/srv/a\", \"/srv/a/b\"]").join("\n");
    assert!(own.contains("/srv/a/b lies in another of these paths"), "{own}");
}

#[test]
fn vaults_are_directories_buckets_or_served() {
    let vault = |lines: &str| findings(&BASE.replace("url = \"/srv/vault\"", lines));
    let none = Vec::<String>::new();
    for good in [
        "url = \"rest:https://h/\"\nuser = \"u\"\ntoken-file = \"/t\"\nca-file = \"/c\"",
        "url = \"rest:https://h/\"\nuser = \"u\"\ntoken-env = \"T\"\npinned-sha256 = \"00\"",
        "url = \"rest:http://h/x\"",
        "url = \"ssh://u@h/d\"\nssh-command = [\"ssh\", \"-4\"]\nremote-program = \"/m\"",
    ] {
        assert_eq!(vault(good), none, "{good}");
    }
    for (bad, key) in [
        ("url = \"/srv/vault\"\nuser = \"u\"", "vault.user"),
        ("url = \"ssh://h/d\"\ntoken-file = \"/t\"", "vault.token-file"),
        ("url = \"rest:http://h/\"\nca-file = \"/c\"", "vault.ca-file"),
        ("url = \"rest:https://h/\"\nssh-command = [\"x\"]", "vault.ssh-command"),
        ("url = \"rest:https://h/\"\ntoken-file = \"t\"", "vault.token-file"),
        ("url = \"rest:https://h/\"\ntoken-file = \"/t\"\ntoken-env = \"T\"", "vault.token-env"),
    ] {
        let found = vault(bad).join("\n");
        assert!(found.contains(key), "{bad}: {found}");
        assert!(!found.contains("secret"), "{found}");
    }
    for bad in ["sftp:h:/d", "https://h/"] {
        let found = findings(&BASE.replace("/srv/vault\"", &format!("{bad}\"")));
        assert!(found[0].contains("vault.url: this kind of vault is not supported"), "{found:?}");
    }
    for bad in ["", "vault", "./vault", "/srv/../vault"] {
        let found = findings(&BASE.replace("/srv/vault\"", &format!("{bad}\"")));
        assert!(found[0].contains("vault.url: "), "{found:?}");
    }
    assert_eq!(
        findings(&BASE.replace("/srv/vault\"", "file:///srv/vault\"")),
        Vec::<String>::new()
    );
}

/// What is wrong with a vault at this URL that has these lines in [vault.s3].
fn bucket(url: &str, lines: &str) -> Vec<String> {
    let vault = BASE.replace("/srv/vault\"", &format!("{url}\""));
    findings(&format!("{vault}[vault.s3]\n{lines}\n"))
}

#[test]
fn a_bucket_is_reached_by_what_the_file_says() {
    let all = "region = \"eu-central-1\"\npath-style = true\naccess-key-id = \"A\"\n\
               secret-access-key-file = \"/etc/s\"\nca-file = \"/etc/ca.pem\"\n\
               object-lock = \"compliance\"\nobject-lock-days = 30\n\
               as-of = \"2026-11-01T00:00:00Z\"";
    for url in ["s3://bucket", "s3://bucket/a/b", "s3:https://h:9000/bucket/x", "s3:h/bucket"] {
        assert_eq!(bucket(url, all), Vec::<String>::new(), "{url}");
        assert_eq!(bucket(url, "instance-credentials = true"), Vec::<String>::new());
        assert_eq!(bucket(url, "credentials-file = \"/c\"\nprofile = \"p\""), [""; 0]);
    }
    assert_eq!(bucket("s3://bucket", "endpoint = \"https://h\""), [""; 0]);
    for (url, lines, want) in [
        ("s3://", "", "vault.url: names no bucket"),
        ("s3:host", "", "vault.url: names no bucket"),
        ("s3:https://host", "", "vault.url: names no bucket"),
        ("s3:http://host", "", "vault.url: names no bucket"),
        ("s3://u:p@bucket", "", "vault.url: holds no user"),
        ("/srv/vault", "region = \"x\"", "vault.s3: means nothing"),
        ("s3:https://h/b1", "endpoint = \"https://h\"", "endpoint: contradicts `vault.url`"),
        ("s3://b1", "endpoint = \"h:9000\"", "endpoint: must begin with https://"),
        ("s3://b1", "access-key-id = \"A\"", "needs `secret-access-key-file`"),
        ("s3://b1", "secret-access-key-env = \"A\"", "needs `access-key-id`"),
        ("s3://b1", "profile = \"p\"", "profile: needs `credentials-file`"),
        (
            "s3://b1",
            "credentials-file = \"/c\"\ninstance-credentials = true",
            "instance-credentials: contradicts `credentials-file`",
        ),
        ("s3://b1", "credentials-file = \"c\"", "credentials-file: \"c\" is relative"),
        ("s3://b1", "object-lock = \"governance\"", "object-lock: needs `object-lock-days`"),
        ("s3://b1", "object-lock-days = 3", "object-lock-days: needs `object-lock`"),
        ("s3://b1", "object-lock = \"governance\"\nobject-lock-days = 0", "must be from 1"),
        ("s3://b1", "as-of = \"yesterday\"", "as-of: \"yesterday\" is not a time"),
        ("s3://b1", "secret-key = \"x\"", "vault.s3.secret-key: unknown key"),
    ] {
        let found = bucket(url, lines).join("\n");
        assert!(found.contains(want), "{url} {lines}: {found}");
    }
}

#[test]
fn somebody_has_to_have_a_password() {
    let without = BASE.replace("password-file = \"/etc/mainstay/vault.password\"\n", "");
    let service = "[service.a]\nengine = \"files\"\npath = \"/srv/a\"\n";
    let found = findings(&format!("{without}{service}"));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("service.a: has no password"), "{found:?}");
    assert_eq!(
        findings(&format!("{without}{service}password-env = \"P\"\n")),
        Vec::<String>::new()
    );
}

#[test]
fn doubtful_things_are_told_but_let_through() {
    let warned = |text: &str| -> Vec<String> {
        let checked = read(&format!("{BASE}{text}"), "m.toml").unwrap();
        checked.warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(warned(""), ["service: no service is configured, so nothing is protected"]);
    let service = "[service.a]\nengine = \"files\"\npath = \"/srv/a\"\n";
    assert_eq!(
        warned(&format!("{service}start = \"x\"\n")),
        ["line 11: service.a.start: has no `stop` beside it"]
    );
    assert!(warned(&format!("{service}time-zone = \"UTC\"\n"))[0].contains("without `schedule`"));
    let url =
        "[service.a]\nengine = \"postgres\"\ndata-dir = \"/d\"\nurl = \"postgres://u:p@h/\"\n";
    assert!(warned(url)[0].contains("holds a password"));
    let vault = BASE.replace("/srv/vault\"", "rest:https://u:secret@h/\"");
    let found = read(&vault, "m.toml").unwrap().warnings[0].to_string();
    assert!(found.contains("vault.url: holds a password"), "{found}");
    assert!(!found.contains("secret"), "{found}");
}

#[test]
fn names_are_checked_where_they_enter() {
    for name in ["..", "a..b", "a/b", "", " a", "-a"] {
        let found =
            findings(&format!("{BASE}[service.\"{name}\"]\nengine = \"files\"\npath = \"/a\"\n"));
        assert!(found[0].contains("is not valid"), "{name}: {found:?}");
    }
}

#[test]
fn passwords_in_urls_are_not_shown() {
    for (url, shown) in [
        ("postgres://u:p@h/db", "postgres://u:…@h/db"),
        ("postgres://u:p@ss@h/db?x=1", "postgres://u:…@h/db?x=1"),
        ("postgres://u:p/a@h/db", "postgres://u:…@h/db"),
        ("postgres://u@h/db", "postgres://u@h/db"),
        ("postgres://h/db", "postgres://h/db"),
        ("postgres:///db?user=u&password=p", "postgres:///db?user=u&password=…"),
        ("postgres:///db?password=p&user=u", "postgres:///db?password=…&user=u"),
        ("postgres:///db?Pass%77ord=p", "postgres:///db?Pass%77ord=…"),
        ("postgres:///db?sslpassword=p#x", "postgres:///db?sslpassword=…"),
        ("/srv/vault", "/srv/vault"),
    ] {
        assert_eq!(without_password(url), shown);
        assert_eq!(lacks_password(shown), url != shown, "{shown}");
        assert!(!lacks_password(url), "{url}");
    }
}

#[test]
fn the_schema_names_every_key() {
    let text = schema().to_string();
    for key in ["state-dir", "when-unreachable", "exclude-larger-than", "after-refresh", "within"] {
        assert!(text.contains(key), "{key}");
    }
    assert_eq!(schema()["properties"]["vault"]["$ref"], "#/$defs/Vault");
}

proptest! {
    /// Whatever the text: an answer, and one with a reason.
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}", cut in 0..400_usize, at in 0..400_usize) {
        let whole = format!("{BASE}{SHOWN}");
        let cut: String = whole.chars().take(cut).collect();
        let spliced: String = whole.chars().take(at).chain(text.chars()).chain(whole.chars().skip(at)).collect();
        for text in [text, cut, spliced] {
            if let Err(e) = Config::parse(&text, "m") {
                prop_assert!(!e.findings.is_empty());
                prop_assert!(e.findings.iter().all(|finding| !finding.what.is_empty()));
            }
        }
    }
}

#[test]
fn an_alert_command_has_some_time() {
    for (time, findings) in [("30s", 0), ("0s", 1), ("soon", 1)] {
        let text = format!("{BASE}[alerts]\ncommand = \"true\"\ncommand-timeout = \"{time}\"\n");
        let found = read(&text, "m.toml").map_or_else(|e| e.findings.len(), |_| 0);
        assert_eq!(found, findings, "{time}");
    }
}

#[test]
fn what_is_said_about_drills_makes_sense() {
    assert_eq!(files("drill-schedule = \"0 4 * * 0\"\nrto = \"10m\"\n"), [] as [String; 0]);
    for (lines, about) in [
        ("drill-schedule = \"often\"\n", "drill-schedule"),
        ("rto = \"soon\"\n", "rto"),
        ("rto = \"0s\"\n", "rto"),
        ("drill-dir = \"scratch\"\n", "drill-dir"),
        ("drill-dir = \"/srv/a/scratch\"\n", "lies in /srv/a of service a"),
        ("drill-dir = \"/srv/vault/scratch\"\n", "lies in the vault"),
        ("drill-query = \"SELECT 1\"\n", "means nothing to engine files"),
        ("drill-expect = \"1\"\n", "answers nothing"),
        ("drill-timeout = \"0s\"\n", "drill-timeout"),
        ("drill-command = \" \"\n", "is empty"),
        ("drill-preload = [\"timescaledb\"]\n", "means nothing to engine files"),
    ] {
        let found = files(lines);
        assert!(found.len() == 1 && found[0].contains(about), "{lines}: {found:?}");
    }
    let postgres = "engine = \"postgres\"\nurl = \"postgres://u@/\"\ndata-dir = \"/srv/a\"\n";
    let preload = |list: &str| service(&format!("{postgres}drill-preload = {list}\n"));
    assert_eq!(preload("[\"timescaledb\", \"$libdir/plugins/one-1.so\"]"), [] as [String; 0]);
    for bad in ["[\"\"]", "[\"a,b\"]", "[\"a'\"]", "[\"a b\"]", "[\"a\\nb\"]"] {
        let found = preload(bad);
        assert!(found.len() == 1 && found[0].contains("no name of a library"), "{bad}: {found:?}");
    }
    let sqlite = "engine = \"sqlite\"\npath = \"/srv/a.db\"\ndrill-query = \"SELECT 1\"\n";
    assert_eq!(service(sqlite), [] as [String; 0]);
    assert_eq!(service(&format!("{sqlite}drill-command = \"true\"\n")).len(), 1);
    let unmeasured =
        format!("{BASE}[service.a]\nengine = \"files\"\npath = \"/srv/a\"\nrto = \"1m\"\n");
    let warned = read(&unmeasured, "m.toml").unwrap().warnings;
    assert!(warned.len() == 1 && warned[0].to_string().contains("drill-schedule"), "{warned:?}");
}

/// What is left of a configuration that has mistakes, and what is told of them.
fn sound(text: &str) -> (Config, Vec<(String, String)>) {
    let checked = read_sound(&format!("{BASE}{text}"), "m.toml").unwrap();
    let told = |finding: &Finding| {
        let sections: Vec<String> = finding.sections.iter().map(ToString::to_string).collect();
        (sections.join(" "), finding.what.clone())
    };
    (checked.config, checked.mistakes.iter().map(told).collect())
}

fn names(config: &Config) -> Vec<&str> {
    config.service.keys().map(|name| name.as_str()).collect()
}

const SOUND: &str = "[service.a]\nengine = \"files\"\npath = \"/srv/a\"\n";

#[test]
fn a_mistake_in_a_section_leaves_the_others_as_they_are() {
    for (section, lines, what) in [
        // Of every kind: an unknown key, a wrong type, something missing, a rule, a name that is none.
        (
            "[service.b]",
            "engine = \"files\"\npath = \"/srv/b\"\nkepp = { last = 3 }",
            "did you mean",
        ),
        (
            "[service.b]",
            "engine = \"files\"\npath = \"/srv/b\"\nhooks.fenze = \"x\"",
            "did you mean",
        ),
        ("[service.b]", "engine = \"files\"\npath = 3", "invalid type: integer `3`"),
        ("[service.b]", "path = \"/srv/b\"", "missing field `engine`"),
        (
            "[service.b]",
            "engine = \"files\"\npath = \"/srv/b\"\nrpo = \"soon\"",
            "is not a duration",
        ),
        ("[service.\"b c\"]", "engine = \"files\"\npath = \"/srv/b\"", "is not valid"),
        ("[copy.far]", "vault = { url = \"/srv/vault\" }", "is the vault itself"),
        ("[copy.far]", "vault = { url = \"/srv/far\" }\nrppo = \"2h\"", "did you mean `rpo`?"),
        (
            "[copy.far]",
            "vault = { url = \"/srv/far\" }\nservices = [\"x\"]",
            "no service of this host",
        ),
        ("[copy.far]", "vault = { url = \"/srv/a/far\" }", "lies in /srv/a of service a"),
        ("[copy.far]", "vault = { url = \"/srv/a\" }", "lies in /srv/a of service a"),
        ("[copy.far]", "vault = { url = \"/srv\" }", "holds /srv/a of service a"),
        ("[alerts]", "comand = \"x\"", "did you mean `command`?"),
        ("[sevice.b]", "engine = \"files\"\npath = \"/srv/b\"", "did you mean `service`?"),
    ] {
        let (config, told) = sound(&format!("{section}\n{lines}\n{SOUND}"));
        assert_eq!((names(&config), config.copy.len()), (vec!["a"], 0), "{section} {lines}");
        assert_eq!(told.len(), 1, "{section} {lines}: {told:?}");
        let expected = section.replace('"', "").replace("[sevice.b]", "[sevice]");
        assert_eq!(told[0].0, expected, "{lines}");
        assert!(told[0].1.contains(what), "{told:?}");
        // Whoever wants all of it to be right hears the same.
        assert_eq!(findings(&format!("{BASE}{section}\n{lines}\n{SOUND}")).len(), 1);
    }
    assert_eq!(sound(SOUND).1, []);
}

#[test]
fn a_mistake_in_what_all_share_is_everybodys() {
    for text in [
        format!("{BASE}passwrd-env = \"X\"\n{SOUND}"),
        format!("{}{SOUND}", BASE.replace("/srv/vault", "sftp:host:/x")),
        format!("{}{SOUND}", BASE.replace("state-dir", "state-dri")),
        format!("{}{SOUND}", BASE.replace("\"db1\"", "3")),
        format!("{}{SOUND}", BASE.replace("[vault]", "[valut]")),
        // Meant for the vault, beside one that is there: without it nothing would be locked.
        format!("{BASE}[valut.s3]\nobject-lock = \"30d\"\n{SOUND}"),
        format!("{BASE}[s3]\nobject-lock = \"30d\"\n{SOUND}"),
        format!("{BASE}[hosts]\nname = \"x\"\n{SOUND}"),
        format!("{BASE}service = 3\n"),
        format!("{BASE}{SOUND}engine = \"files\"\n"),
    ] {
        assert!(read_sound(&text, "m.toml").is_err(), "{text}");
    }
}

#[test]
fn what_two_sections_contradict_each_other_in_is_wrong_in_both() {
    let other = |name: &str, path: &str| {
        format!("[service.{name}]\nengine = \"files\"\npath = \"{path}\"\n")
    };
    let (config, told) =
        sound(&format!("{SOUND}{}{}", other("b", "/srv/a/x"), other("c", "/srv/c")));
    assert_eq!(names(&config), ["c"]);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "[service.b] [service.a]");
    // Also if one of them has another mistake besides.
    let (config, told) = sound(&format!("{SOUND}{}kep = {{ last = 1 }}\n", other("b", "/srv/a")));
    assert_eq!((names(&config), told.len()), (vec![], 2), "{told:?}");
    // Whatever that is: what it claims can be read all the same.
    for other in [
        "[service.b]\nengine = \"files\"\npath = \"/srv/a\"\nrpo = 3\n",
        "[service.b]\nengine = \"files\"\npath = \"/srv/a\"\npaths = 3\nkeep.last = \"x\"\n",
        "[service.b]\nengine = \"files\"\npath = \"/srv/a\"\n[service.b.keep]\nlast = \"x\"\n",
        "[service.b]\nengine = \"files\"\npth = \"/srv/a\"\n",
    ] {
        let (config, told) = sound(&format!("{SOUND}{other}"));
        assert_eq!((names(&config), told.len()), (vec![], 2), "{other}: {told:?}");
        assert_eq!(told[1].0, "[service.b] [service.a]");
    }
}

#[test]
fn what_a_misspelt_key_leaves_out_is_left_to_others() {
    let around = |key: &str, more: &str| {
        let inner = SOUND.replace("/srv/a", "/srv/b/a");
        let lines = "[service.b]\nengine = \"files\"\npath = \"/srv/b\"\n";
        sound(&format!("{inner}{lines}{key} = [\"/srv/b/a\"]\n{more}"))
    };
    assert_eq!(names(&around("exclude", "").0), ["a", "b"]);
    let (config, told) = around("exlude", "");
    assert_eq!((names(&config), told.len()), (vec!["a"], 1), "{told:?}");
    // What is there by its right name is what counts.
    let (config, told) = around("exlude", "exclude = [\"/srv/b/x\"]\n");
    assert_eq!((names(&config), told.len()), (vec![], 2), "{told:?}");
    let (config, told) = around("exlude", "rpo = 3\n");
    assert_eq!((names(&config), told.len()), (vec!["a"], 1), "{told:?}");
}

#[test]
fn a_second_vault_of_a_service_with_a_mistake_is_one_for_the_others() {
    let copy = "[copy.far]\nvault = { url = \"/srv/far\" }\nservices = [\"a\", \"b\"]\n";
    let (config, told) = sound(&format!("{copy}{SOUND}[service.b]\nengine = 3\n"));
    assert_eq!((config.copy.len(), told.len()), (1, 1), "{told:?}");
}

#[test]
fn who_is_told_is_told_by_what_is_sound_of_it() {
    let (config, told) = sound(
        "[alerts]\ncommand = \"tell\"\ncommand-timeout = 30\nwebhook = \"ftp://x\"\nwebhok = \"y\"\n\
         [service.a]\nengine = \"files\"\npath = \"/srv/a\"\n",
    );
    assert_eq!(config.alerts.command.as_deref(), Some("tell"));
    assert_eq!((config.alerts.command_timeout, config.alerts.webhook), (None, None));
    assert!(told.iter().all(|(section, _)| section == "[alerts]"), "{told:?}");
}

/// Where nothing else of the file can be used.
#[test]
fn who_is_told_of_a_mistake_in_what_all_share_is_read_by_itself() {
    let alerts =
        "[alerts]\ncommand = \"tell\"\ncommand-timeout = 30\nwebhook = \"ftp://x\"\nx = 1\n";
    for (from, to, name, dir) in [
        ("/srv/vault", "sftp:host:/x", true, true),
        ("state-dir", "state-dri", true, false),
        ("\"db1\"", "3", false, true),
        ("[vault]", "[valut]", true, true),
    ] {
        let text = format!("{}{SOUND}{alerts}", BASE.replace(from, to));
        assert!(read_sound(&text, "m.toml").is_err(), "{text}");
        let found = tellable(&text).unwrap();
        assert_eq!((found.name.is_some(), found.state_dir.is_some()), (name, dir), "{text}");
        assert_eq!(found.alerts.command.as_deref(), Some("tell"));
        assert_eq!((found.alerts.command_timeout, found.alerts.webhook), (None, None));
    }
    assert_eq!(tellable("[alerts\ncommand = 3"), None);
}
