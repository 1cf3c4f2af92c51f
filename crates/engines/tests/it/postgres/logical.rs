//! Dumps of databases, as an engine.

use super::Shop;
use crate::contract::{Fixture, contract_suite};
use crate::pg_server::bin_dir;
use crate::support::{Bench, service};
use mainstay_engines::{Staged, open};
use model::config::Service;
use model::{Class, Classify};
use std::fs;
use std::process::Command;

contract_suite!(contract, crate::postgres::logical::Dumped::new());

/// A server whose databases are dumped. What is written to is in the database that every server has.
pub(crate) struct Dumped(Shop);

impl Dumped {
    pub(crate) fn new() -> Dumped {
        let dumped = Dumped(Shop::new(""));
        fs::create_dir(dumped.bench().path("dump")).expect("a place for dumps");
        dumped
    }
}

impl Fixture for Dumped {
    fn bench(&self) -> &Bench {
        &self.0.bench
    }

    fn definition(&self) -> Service {
        service(&format!(
            "engine = 'postgres'\nmethod = 'logical'\nurl = '{}'\npath = '{}'\nbin-dir = '{}'\n",
            self.0.server.url("postgres"),
            self.bench().path("dump").display(),
            bin_dir().display()
        ))
    }

    fn absent(&self) -> Service {
        service(&format!(
            "engine = 'postgres'\nmethod = 'logical'\n\
             url = 'postgres://postgres@/postgres?host={0}'\npath = '{0}/dump'\n",
            self.bench().path("nowhere").display()
        ))
    }

    fn write(&self) -> u64 {
        self.0.write()
    }

    fn newest(&self) -> u64 {
        self.0.newest()
    }

    fn newest_in(&self, copy: &[Staged]) -> u64 {
        let mut restore = Command::new(bin_dir().join("pg_restore"));
        restore.args(["--data-only", "--table=orders", "--file=-"]);
        let output = restore.arg(copy[0].staged.join("databases/postgres")).output().expect("run");
        let text = String::from_utf8(output.stdout).expect("text");
        let rows: Vec<u64> =
            text.lines().filter_map(|line| line.split_once('\t')?.0.parse().ok()).collect();
        let newest = rows.iter().copied().max().unwrap_or(0);
        assert_eq!(rows.len() as u64, newest, "rows are missing: {text}");
        newest
    }

    fn footprint(&self) -> String {
        let server = &self.0.server;
        format!(
            "{} sessions, databases {}",
            server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mainstay'"),
            server.sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")
        )
    }
}

/// A definition that lacks something says what.
#[test]
fn a_definition_needs_a_server_and_a_place() {
    let name = super::name();
    for text in [
        "engine = 'postgres'\nmethod = 'logical'\npath = '/srv/dump'",
        "engine = 'postgres'\nmethod = 'logical'\nurl = 'postgres://u@/d'",
        "engine = 'postgres'\nmethod = 'logical'\nurl = 'postgres://u@/d'\npath = 'dump'",
    ] {
        let error = open(&name, &service(text)).map(drop).expect_err("it lacks something");
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}
