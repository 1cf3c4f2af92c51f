//! The shop in one SQLite database.

use super::{Shop, id, number_of, prices, total};
use crate::demo::judge::Books;
use crate::demo::stage::Place;
use crate::failure::Failure;
use model::Class;
use rusqlite::{Connection, OpenFlags, params};
use std::path::PathBuf;
use std::time::Duration;

const SCHEMA: &str = "
    CREATE TABLE orders (number INTEGER PRIMARY KEY, host TEXT NOT NULL, total INTEGER NOT NULL);
    CREATE TABLE items (number INTEGER NOT NULL, position INTEGER NOT NULL, price INTEGER NOT NULL,
        PRIMARY KEY (number, position)) WITHOUT ROWID;
    CREATE TABLE till (total INTEGER NOT NULL);
    INSERT INTO till VALUES (0);";

/// The prices as `super::prices` has them: a million single inserts would be a long prologue.
const PAST_ITEMS: &str = "
    WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?1)
    INSERT INTO items
    SELECT n, p, CASE p WHEN 1 THEN 100 + n % 9973 WHEN 2 THEN 250 + 2 * (n % 9973)
                        ELSE 999 + 3 * (n % 9973) END
    FROM past, (SELECT 1 AS p UNION ALL SELECT 2 UNION ALL SELECT 3)";

const PAST_SUMS: &str = "
    INSERT INTO orders SELECT number, 'past', sum(price) FROM items GROUP BY number;
    UPDATE till SET total = (SELECT sum(total) FROM orders);";

pub(super) struct Sqlite {
    database: Connection,
}

fn file(place: &Place) -> PathBuf {
    place.data().join("shop.db")
}

fn failed(what: &str) -> impl Fn(rusqlite::Error) -> Failure {
    move |e| Failure::new(Class::Failed, format!("the shop cannot {what}")).because(&e)
}

impl Sqlite {
    pub(super) fn open(place: &Place) -> Result<Sqlite, Failure> {
        let database = Connection::open_with_flags(file(place), OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(failed("open its database"))?;
        // FULL: an order is durable before it is acknowledged.
        database
            .execute_batch("PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000;")
            .map_err(failed("set up its database"))?;
        Ok(Sqlite { database })
    }
}

impl Shop for Sqlite {
    fn take(&mut self, number: u64, host: &str, pause: Duration) -> Result<(), Failure> {
        let failed = failed("take an order");
        let order = self
            .database
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(&failed)?;
        insert(&order, number, host, pause).map_err(&failed)?;
        order.commit().map_err(&failed)
    }
}

fn insert(
    database: &Connection,
    number: u64,
    host: &str,
    pause: Duration,
) -> Result<(), rusqlite::Error> {
    database.prepare_cached("INSERT INTO orders VALUES (?1, ?2, ?3)")?.execute(params![
        id(number),
        host,
        total(number)
    ])?;
    std::thread::sleep(pause);
    for (position, price) in (1..).zip(prices(number)) {
        database.prepare_cached("INSERT INTO items VALUES (?1, ?2, ?3)")?.execute(params![
            id(number),
            position,
            price
        ])?;
    }
    database
        .prepare_cached("UPDATE till SET total = total + ?1")?
        .execute(params![total(number)])?;
    Ok(())
}

pub(super) fn seed(place: &Place, orders: u64) -> Result<(), Failure> {
    let failed = failed("be made");
    let data = place.data();
    std::fs::create_dir_all(&data).map_err(|e| Failure::io("make", data.display(), &e))?;
    let mut database = Connection::open(file(place)).map_err(&failed)?;
    database.execute_batch("PRAGMA journal_mode = WAL;").map_err(&failed)?;
    let past = database.transaction().map_err(&failed)?;
    past.execute_batch(SCHEMA).map_err(&failed)?;
    past.execute(PAST_ITEMS, [id(orders)]).map_err(&failed)?;
    past.execute_batch(PAST_SUMS).map_err(&failed)?;
    past.commit().map_err(&failed)
}

pub(super) fn books(place: &Place) -> Result<Books, Failure> {
    let failed = failed("be counted");
    let database = Connection::open(file(place)).map_err(&failed)?;
    let numbers = database
        .prepare("SELECT number FROM orders")
        .and_then(|mut all| all.query_map([], |row| row.get(0).map(number_of))?.collect())
        .map_err(&failed)?;
    let mut torn: Vec<String> = database
        .prepare(
            "SELECT o.number, count(i.number) FROM orders o LEFT JOIN items i USING (number)
             GROUP BY o.number
             HAVING count(i.number) != 3 OR coalesce(sum(i.price), 0) != o.total",
        )
        .and_then(|mut query| {
            let line = |row: &rusqlite::Row<'_>| {
                let (number, items): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(format!("order {number} has {items} items, or they do not add up"))
            };
            query.query_map([], line)?.collect()
        })
        .map_err(&failed)?;
    let (till, sum): (i64, i64) = database
        .query_row(
            "SELECT (SELECT total FROM till), (SELECT coalesce(sum(total), 0) FROM orders)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .map_err(&failed)?;
    if till != sum {
        torn.push(format!("the till holds {till}, the orders are worth {sum}"));
    }
    Ok(Books { numbers, torn })
}

pub(super) fn unsound(place: &Place) -> Result<Option<String>, Failure> {
    let failed = failed("be checked");
    let database = Connection::open(file(place)).map_err(&failed)?;
    let verdict: String =
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(&failed)?;
    Ok((verdict != "ok").then_some(verdict))
}
