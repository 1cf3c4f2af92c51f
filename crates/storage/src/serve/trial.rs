//! What a request is taken for, for tests that try any bytes on it. Behind the feature `doubles`.

use super::route::route;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Uri};

/// The object or prefix that the head of a request is about, if it is understood: a line with method
/// and path, and then a line for each header. Whatever else is written there is left out, as the
/// HTTP library would refuse it before us.
pub fn place(head: &[u8]) -> Option<String> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let request = route(&method, &uri, &headers).ok()?;
    if let super::route::Verb::Get(_, Some(range)) = &request.verb {
        for size in [0, 1, 1000, u64::MAX] {
            if let Some((first, length)) = range.within(size) {
                assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
    Some(request.verb.place().to_owned())
}

/// The user that an `Authorization` header names, if it is one.
pub fn user_of(header: &[u8]) -> Option<String> {
    super::users::credentials(header).map(|(name, _)| name)
}
