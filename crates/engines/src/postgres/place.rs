//! Where a restored copy listens: what its own `url` says, and not what the source's files say.

use super::connect::{Address, Place};
use std::net::IpAddr;
use std::path::Path;

/// The longest path of a socket that the system takes, with room for its name.
const LONGEST_SOCKET_DIR: usize = 90;

/// Settings by which a copy is reachable under this address. `source` is what the source had for
/// `listen_addresses`.
pub(super) fn own(address: &Address, source: Option<&str>) -> Vec<(&'static str, String)> {
    let mut settings = vec![("port", address.port.to_string())];
    if let Place::Socket(dir) = &address.host {
        settings.push(("unix_socket_directories", dir.display().to_string()));
    }
    if let Some(addresses) = listen_addresses(&address.host, source.unwrap_or("localhost")) {
        settings.push(("listen_addresses", addresses));
    }
    settings
}

/// Settings of a copy that nobody but its owner can reach.
pub(super) fn isolated(address: &Address, target: &Path) -> Vec<(&'static str, String)> {
    let dir = target.display().to_string();
    let dir = if dir.len() <= LONGEST_SOCKET_DIR { dir } else { String::new() };
    vec![
        ("port", address.port.to_string()),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", dir),
    ]
}

/// What a copy has to listen on other than its source; none if that fits any host.
fn listen_addresses(host: &Place, source: &str) -> Option<String> {
    let everywhere = |name: &str| matches!(name, "*" | "0.0.0.0" | "::");
    let local = |name: &str| {
        name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    };
    let names: Vec<&str> = source.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    match host {
        _ if names.iter().any(|name| everywhere(name)) => None,
        Place::Tcp(name) if names.contains(&name.as_str()) => None,
        Place::Tcp(name) => Some(name.clone()),
        // An address of the source's host is not one of ours.
        Place::Socket(_) if names.iter().all(|name| local(name)) => None,
        Place::Socket(_) => Some("localhost".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_any_host_stays_and_what_is_the_sources_own_goes() {
        let socket = Place::Socket("/run/pg".into());
        let host = Place::Tcp("db2".to_owned());
        for (place, source, wanted) in [
            (&socket, "*", None),
            (&socket, "", None),
            (&socket, "localhost, 127.0.0.1,::1", None),
            (&socket, "10.0.0.5", Some("localhost")),
            (&socket, "localhost,db1", Some("localhost")),
            (&host, "*", None),
            (&host, "localhost,db2", None),
            (&host, "db1", Some("db2")),
            (&host, "", Some("db2")),
        ] {
            assert_eq!(listen_addresses(place, source).as_deref(), wanted, "{place:?} {source:?}");
        }
    }
}
