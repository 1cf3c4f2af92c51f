//! Connection URLs that may be shown.

/// A connection URL without its password: `postgres://backup:secret@db/` becomes
/// `postgres://backup:…@db/`, and likewise `?password=`.
pub fn without_password(url: &str) -> String {
    let Some(at) = url.find("://") else { return url.to_owned() };
    let (start, rest) = url.split_at(at + 3);
    // The last `@` before the path: a password may hold one itself, and a `/` that somebody forgot
    // to escape, so everything up to that `@` counts as user and password.
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (front, query) = rest.split_at(end);
    let front = match front.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:…@{host}"),
            None => front.to_owned(),
        },
        None => front.to_owned(),
    };
    let hide = |pair: &str| {
        let (mark, pair) = pair.split_at(usize::from(pair.starts_with(['?', '#'])));
        match pair.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{mark}{key}=…"),
            _ => format!("{mark}{pair}"),
        }
    };
    let query: Vec<String> = query.split('&').map(hide).collect();
    format!("{start}{front}{}", query.join("&"))
}

/// Whether a URL is one that [`without_password`] took a password from: it cannot be connected to.
pub fn lacks_password(url: &str) -> bool {
    url.contains('…') && without_password(url) == url
}

/// A URL up to its host: what follows may be a secret.
pub fn without_path(url: &str) -> String {
    let shown = without_password(url);
    let Some(at) = shown.find("://") else { return "…".to_owned() };
    let (start, rest) = shown.split_at(at + 3);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    match host.find(['/', '?', '#']) {
        Some(end) => format!("{start}{}/…", &host[..end]),
        None => format!("{start}{host}"),
    }
}

/// Keys are compared without their case and percent signs, in which a password could hide.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains("pass") || key.contains("secret") || key.contains('%')
}
