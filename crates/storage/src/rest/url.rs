//! Addresses of served vaults: `rest:http(s)://[USER[:PASSWORD]@]HOST[:PORT]/PATH/` as restic spells
//! them, `ssh://[USER@]HOST[:PORT]/PATH` and `ssh:[USER@]HOST:PATH`.

use crate::{Error, ErrorKind, Key};
use model::Secret;

/// Where a vault is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Http(Http),
    Ssh(Ssh),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Http {
    pub(super) tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Empty, or ends with a slash; never begins with one.
    pub(super) path: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ssh {
    /// As ssh wants it: `user@host`.
    pub(super) destination: String,
    pub(super) port: Option<u16>,
    /// The directory there.
    pub(super) path: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Address, Error> {
        let wrong = |why: &str| {
            // Not the whole URL: what is wrong in it may be a password.
            let scheme = url.split(':').next().unwrap_or_default();
            Error::new(ErrorKind::Invalid, format!("the vault's URL {scheme}:…"), why)
        };
        if url.chars().any(|c| c.is_control() || c == ' ') {
            return Err(wrong("has a space or a control character in it"));
        }
        if let Some(rest) = url.strip_prefix("rest:") {
            return http(rest).map(Address::Http).map_err(wrong);
        }
        if let Some(rest) = url.strip_prefix("ssh:") {
            return ssh(rest).map(Address::Ssh).map_err(wrong);
        }
        Err(wrong("is none of a served vault"))
    }

    /// The address without anything secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Address::Http(http) => {
                let scheme = if http.tls { "https" } else { "http" };
                let user = http.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                format!("rest:{scheme}://{user}{}/{}", http.authority(), http.path)
            }
            Address::Ssh(ssh) => {
                let port = ssh.port.map(|port| format!(":{port}")).unwrap_or_default();
                match ssh.path.starts_with('/') {
                    true => format!("ssh://{}{port}{}", ssh.destination, ssh.path),
                    false => format!("ssh:{}:{}", ssh.destination, ssh.path),
                }
            }
        }
    }
}

impl Http {
    /// Host and port as they stand in a URL.
    pub(super) fn authority(&self) -> String {
        let Http { host, port, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match (self.tls, port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{port}"),
        }
    }
}

fn http(rest: &str) -> Result<Http, &'static str> {
    let (tls, rest) = match (rest.strip_prefix("https://"), rest.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err("must go on with http:// or https://"),
    };
    if rest.contains(['?', '#']) {
        return Err("has a `?` or a `#` in it; escape it in a password as %3F or %23");
    }
    // The last `@` before the path: a password may hold one.
    let (front, path) = match rest.rfind('@') {
        Some(at) => {
            let slash = rest[at..].find('/').map(|slash| at + slash);
            slash.map_or((rest, ""), |slash| rest.split_at(slash))
        }
        None => rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash)),
    };
    let (who, place) = match front.rsplit_once('@') {
        Some((who, place)) => (Some(who), place),
        None => (None, front),
    };
    let (user, password) = match who.map(|who| who.split_once(':').unwrap_or((who, ""))) {
        None => (None, None),
        Some((user, password)) => {
            let password = unescape(password).ok_or("has a password that is wrongly escaped")?;
            let user = unescape(user).ok_or("has a user that is wrongly escaped")?;
            (Some(user), (!password.is_empty()).then(|| Secret::new(password)))
        }
    };
    let (host, port) = host_and_port(place)?;
    let path = path.trim_matches('/');
    if !path.is_empty() {
        Key::new(path).map_err(|_| "has a path that no vault can have")?;
    }
    let path = if path.is_empty() { String::new() } else { format!("{path}/") };
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    Ok(Http { tls, host, port, path, user, password })
}

fn ssh(rest: &str) -> Result<Ssh, &'static str> {
    let (place, path, port) = match rest.strip_prefix("//") {
        Some(rest) => {
            let slash = rest.find('/').ok_or("names no directory")?;
            let (place, path) = rest.split_at(slash);
            let (user, host) = match place.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, place),
            };
            let (host, port) = host_and_port(host)?;
            (user.map_or(host.clone(), |user| format!("{user}@{host}")), path, port)
        }
        None => {
            let (place, path) = rest.split_once(':').ok_or("is not ssh:HOST:DIRECTORY")?;
            (place.to_owned(), path, None)
        }
    };
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    if path.is_empty() {
        return Err("names no directory");
    }
    let host = place.rsplit('@').next().unwrap_or_default();
    // ssh would take it for an option.
    if place.starts_with('-') || host.starts_with('-') || host.is_empty() {
        return Err("names no host");
    }
    if place.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
        return Err("holds a password, which ssh does not take; use a key");
    }
    Ok(Ssh { destination: place, port, path: path.to_owned() })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has a `[` without its `]`")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
        (host, rest.strip_prefix(':').filter(|port| !port.is_empty()))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err("names no host");
    }
    let port = match port {
        None => None,
        Some(port) => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|port| digits && *port > 0);
            Some(port.ok_or("has no port after its colon")?)
        }
    };
    Ok((host.to_owned(), port))
}

/// Undoes percent escapes.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).ok()?;
        bytes.extend(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}
