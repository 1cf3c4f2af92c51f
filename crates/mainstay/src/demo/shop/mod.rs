//! The demo's service: a shop that takes orders, one implementation per engine.
//!
//! An order is several writes that belong together: the order, its three items, and the till. So a
//! copy that holds half of one can be told from a whole one.

mod files;
pub(crate) mod postgres;
mod sqlite;

use super::judge::Books;
use super::stage::Place;
use crate::failure::Failure;
use serde::Serialize;
use std::time::Duration;

/// What keeps the shop's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// One SQLite database; nothing needs to be installed.
    #[default]
    Sqlite,
    /// A real PostgreSQL with a standby that follows its log.
    Postgres,
    /// A tree with one file per order.
    Files,
}

impl Kind {
    /// As in configurations.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Sqlite => "sqlite",
            Kind::Postgres => "postgres",
            Kind::Files => "files",
        }
    }

    /// As people say it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Sqlite => "SQLite",
            Kind::Postgres => "PostgreSQL",
            Kind::Files => "a tree of files",
        }
    }

    /// Orders from before the story begins, so that copying everything and copying what changed
    /// are not the same.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            Kind::Sqlite => 500_000,
            Kind::Postgres => 20_000,
            Kind::Files => 1_000,
        }
    }

    /// Makes the data of a shop that has taken these orders before.
    pub(crate) fn seed(self, place: &Place) -> Result<(), Failure> {
        match self {
            Kind::Sqlite => sqlite::seed(place, self.seeds()),
            Kind::Postgres => postgres::seed(place, self.seeds()),
            Kind::Files => files::seed(place, self.seeds()),
        }
    }

    /// Opens the shop of a host, to take orders.
    pub(crate) fn open(self, place: &Place) -> Result<Box<dyn Shop>, Failure> {
        Ok(match self {
            Kind::Sqlite => Box::new(sqlite::Sqlite::open(place)?),
            Kind::Postgres => Box::new(postgres::Postgres::open(place)?),
            Kind::Files => Box::new(files::Files::open(place)),
        })
    }

    /// Looks through everything that a shop's copy holds.
    pub(crate) fn books(self, place: &Place) -> Result<Books, Failure> {
        match self {
            Kind::Sqlite => sqlite::books(place),
            Kind::Postgres => postgres::books(place),
            Kind::Files => files::books(place),
        }
    }

    /// What the engine's own checker finds wrong with a copy; a tree has no such checker.
    pub(crate) fn unsound(self, place: &Place) -> Result<Option<String>, Failure> {
        match self {
            Kind::Sqlite => sqlite::unsound(place),
            Kind::Postgres => postgres::unsound(place),
            Kind::Files => Ok(None),
        }
    }
}

/// A shop that is open.
pub(crate) trait Shop {
    /// Takes an order, in several writes with a pause between them, and returns when it is
    /// committed and durable.
    fn take(&mut self, number: u64, host: &str, pause: Duration) -> Result<(), Failure>;
}

/// The prices of an order's items: nothing to remember, and everything to compare.
pub(crate) fn prices(number: u64) -> [i64; 3] {
    let number = i64::try_from(number % 9973).unwrap_or(0);
    [100 + number, 250 + 2 * number, 999 + 3 * number]
}

/// What the order costs.
pub(crate) fn total(number: u64) -> i64 {
    prices(number).iter().sum()
}

/// An order's number as databases count.
fn id(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// And back; what is no number of ours becomes one that nobody ordered.
fn number_of(id: i64) -> u64 {
    u64::try_from(id).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::stage::Identity;
    use super::*;

    /// A place for a shop, owned by whoever may run it.
    fn place(kind: Kind, home: &tempfile::TempDir) -> Place {
        let identity = Identity::needed(kind).unwrap();
        let place = Place::at(home.path().canonicalize().unwrap());
        for directory in [place.directory().to_owned(), place.data(), place.run()] {
            std::fs::create_dir_all(&directory).unwrap();
            identity.own(&directory).unwrap();
        }
        place
    }

    fn takes_orders_and_counts_them(kind: Kind, place: &Place) {
        let mut shop = kind.open(place).unwrap();
        let first = kind.seeds() + 1;
        for number in first..first + 3 {
            shop.take(number, "a", Duration::ZERO).unwrap();
        }
        let books = kind.books(place).unwrap();
        assert_eq!(books.torn, [""; 0]);
        assert!(books.numbers.iter().copied().eq(1..first + 3), "{} orders", books.numbers.len());
        assert_eq!(kind.unsound(place).unwrap(), None);
    }

    #[test]
    fn a_database_takes_orders_and_half_of_one_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let place = place(Kind::Sqlite, &home);
        Kind::Sqlite.seed(&place).unwrap();
        takes_orders_and_counts_them(Kind::Sqlite, &place);
        let database = rusqlite::Connection::open(place.data().join("shop.db")).unwrap();
        database.execute("DELETE FROM items WHERE number = 5 AND position = 2", []).unwrap();
        database.execute("UPDATE till SET total = total + 1", []).unwrap();
        let torn = Kind::Sqlite.books(&place).unwrap().torn;
        assert_eq!(torn.len(), 2, "{torn:?}");
    }

    #[test]
    fn a_tree_takes_orders_and_half_of_one_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let place = place(Kind::Files, &home);
        Kind::Files.seed(&place).unwrap();
        takes_orders_and_counts_them(Kind::Files, &place);
        let order = place.data().join("orders/0000/000005");
        let text = std::fs::read_to_string(&order).unwrap();
        std::fs::write(&order, &text[..20]).unwrap();
        let torn = Kind::Files.books(&place).unwrap().torn;
        // The order itself, and a till that holds its price.
        assert_eq!(torn.len(), 2, "{torn:?}");
    }

    #[test]
    fn a_server_takes_orders_and_half_of_one_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let place = place(Kind::Postgres, &home);
        Kind::Postgres.seed(&place).unwrap();
        let running = postgres::Started::without_archive(&place).unwrap();
        takes_orders_and_counts_them(Kind::Postgres, &place);
        let mut client = postgres::connect(&place, "shop").unwrap();
        client
            .batch_execute(
                "DELETE FROM items WHERE number = 5 AND position = 2;
                 UPDATE till SET total = total + 1",
            )
            .unwrap();
        let torn = Kind::Postgres.books(&place).unwrap().torn;
        assert_eq!(torn.len(), 2, "{torn:?}");
        drop(client);
        drop(running);
    }
}
