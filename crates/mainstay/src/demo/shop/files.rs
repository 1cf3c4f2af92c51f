//! The shop as a tree: one file per order, in directories of a hundred, and one file for the till.
//!
//! No file system commits several files at once, so the engine `files` asks the shop to hold still
//! while it is captured: `quiesce = "freeze"`, with hooks that the shop obeys between two orders.

use super::{Shop, prices, total};
use crate::demo::judge::Books;
use crate::demo::stage::Place;
use crate::failure::Failure;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Files {
    data: PathBuf,
}

fn order_file(data: &Path, number: u64) -> PathBuf {
    data.join(format!("orders/{:04}/{number:06}", number / 100))
}

impl Files {
    pub(super) fn open(place: &Place) -> Files {
        Files { data: place.data() }
    }
}

impl Shop for Files {
    fn take(&mut self, number: u64, host: &str, pause: Duration) -> Result<(), Failure> {
        let text = text(number, host);
        let half = text.len() / 2;
        place_file(&order_file(&self.data, number), &[&text[..half], &text[half..]], pause)?;
        let till = read_till(&self.data)? + total(number);
        place_file(&self.data.join("till"), &[&format!("{till}\n")], Duration::ZERO)
    }
}

fn text(number: u64, host: &str) -> String {
    let items: String =
        (1..).zip(prices(number)).map(|(n, price)| format!("item {n} price {price}\n")).collect();
    format!("order {number} host {host}\n{items}total {}\n", total(number))
}

/// Writes beside the name and moves into place, durable on return.
fn place_file(path: &Path, parts: &[&str], pause: Duration) -> Result<(), Failure> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let aside = path.with_extension("new");
    let write = || {
        std::fs::create_dir_all(directory)?;
        let mut file = File::create(&aside)?;
        for part in parts {
            file.write_all(part.as_bytes())?;
            std::thread::sleep(pause);
        }
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| Failure::io("write", path.display(), &e))
}

fn read_till(data: &Path) -> Result<i64, Failure> {
    let path = data.join("till");
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::io("read", path.display(), &e))?;
    text.trim().parse().map_err(|_| Failure::invalid(format!("{} holds {text:?}", path.display())))
}

pub(super) fn seed(place: &Place, orders: u64) -> Result<(), Failure> {
    let data = place.data();
    let mut till = 0;
    for number in 1..=orders {
        let path = order_file(&data, number);
        let directory = path.parent().unwrap_or(&data);
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&path, text(number, "past")))
            .map_err(|e| Failure::io("write", path.display(), &e))?;
        till += total(number);
    }
    place_file(&data.join("till"), &[&format!("{till}\n")], Duration::ZERO)
}

pub(super) fn books(place: &Place) -> Result<Books, Failure> {
    let data = place.data();
    let mut books = Books::default();
    let mut sum = 0;
    for directory in list(&data.join("orders"))? {
        for file in list(&directory)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let said = std::fs::read_to_string(&file)
                .map_err(|e| Failure::io("read", file.display(), &e))?;
            match name.parse::<u64>() {
                Ok(number) if whole(number, &said) => {
                    sum += total(number);
                    books.numbers.insert(number);
                }
                _ => books.torn.push(format!("{name} is no whole order")),
            }
        }
    }
    let till = read_till(&data)?;
    if till != sum {
        books.torn.push(format!("the till holds {till}, the orders are worth {sum}"));
    }
    Ok(books)
}

fn whole(number: u64, said: &str) -> bool {
    ["past", "a", "b"].iter().any(|host| said == text(number, host))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|e| Failure::io("list", directory.display(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_order_is_noticed() {
        let whole_text = text(7, "a");
        assert!(whole(7, &whole_text));
        assert!(!whole(7, &whole_text[..whole_text.len() / 2]));
        assert!(!whole(8, &whole_text));
    }
}
