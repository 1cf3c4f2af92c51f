//! The few XML documents of S3 that we read ourselves.

use super::trouble::Trouble;
use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What a server says about a failure.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Told {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) region: Option<String>,
}

/// Whether a document is an error, whatever the status says.
pub(super) fn is_error(body: &[u8]) -> bool {
    let mut reader = quick_xml::Reader::from_reader(body);
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) => return tag.local_name().as_ref() == b"Error",
            Ok(Event::Eof | Event::Empty(_)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

/// What an error document says; empty if it is none (a proxy's page of HTML, nothing at all).
pub(super) fn error(body: &[u8]) -> Told {
    if !is_error(body) {
        return Told::default();
    }
    let mut told: Told = parse(body).unwrap_or_default();
    told.code = told.code.chars().take(100).collect();
    told.message = told.message.chars().take(500).collect();
    told
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    quick_xml::de::from_reader(body)
        .map_err(|e| Trouble::Nonsense(format!("the server's answer cannot be read: {e}")))
}

/// One page of objects.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Objects {
    pub(super) contents: Vec<Object>,
    pub(super) common_prefixes: Vec<Prefix>,
    pub(super) is_truncated: bool,
    pub(super) next_continuation_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) size: u64,
}

/// Names that begin alike, where they were asked for as one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Prefix {
    pub(super) prefix: String,
}

/// One page of versions.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Versions and delete markers, as the server orders them: newest of a key first.
    pub(super) entries: Vec<Version>,
    pub(super) is_truncated: bool,
    pub(super) next_key: Option<String>,
    pub(super) next_version: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Version {
    pub(super) key: String,
    pub(super) version_id: String,
    pub(super) last_modified: String,
    #[serde(default)]
    pub(super) is_latest: bool,
    /// None for a delete marker.
    #[serde(default)]
    pub(super) size: Option<u64>,
}

/// One page of uploads that were begun and not ended.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Uploads {
    #[serde(rename = "Upload")]
    pub(super) uploads: Vec<Upload>,
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: Option<String>,
    pub(super) next_upload_id_marker: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) initiated: String,
}

pub(super) fn objects(body: &[u8]) -> Result<Objects, Trouble> {
    expect(body, b"ListBucketResult")?;
    parse(body)
}

pub(super) fn uploads(body: &[u8]) -> Result<Uploads, Trouble> {
    expect(body, b"ListMultipartUploadsResult")?;
    parse(body)
}

pub(super) fn versions(body: &[u8]) -> Result<Versions, Trouble> {
    #[derive(Debug, Deserialize)]
    enum Part {
        Version(Version),
        DeleteMarker(Version),
        IsTruncated(bool),
        NextKeyMarker(String),
        NextVersionIdMarker(String),
        #[serde(other)]
        Other,
    }
    #[derive(Debug, Deserialize)]
    struct Page {
        // In the order of the document: versions and delete markers of a key stand mixed.
        #[serde(rename = "$value", default)]
        parts: Vec<Part>,
    }
    expect(body, b"ListVersionsResult")?;
    let page: Page = parse(body)?;
    let mut versions = Versions::default();
    for part in page.parts {
        match part {
            Part::Version(version) => versions.entries.push(version),
            Part::DeleteMarker(marker) => {
                versions.entries.push(Version { size: None, ..marker });
            }
            Part::IsTruncated(truncated) => versions.is_truncated = truncated,
            Part::NextKeyMarker(key) => versions.next_key = Some(key),
            Part::NextVersionIdMarker(version) => versions.next_version = Some(version),
            Part::Other => {}
        }
    }
    Ok(versions)
}

/// The root element must be this one: anything else (a proxy's page of HTML) would read as an
/// empty listing, and an empty listing looks like an empty vault.
fn expect(body: &[u8], root: &[u8]) -> Result<(), Trouble> {
    let mut reader = quick_xml::Reader::from_reader(body);
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag) | Event::Empty(tag)) if tag.local_name().as_ref() == root => {
                return Ok(());
            }
            Ok(Event::Start(_) | Event::Empty(_) | Event::Eof) | Err(_) => {
                let message = "the server's answer is not the listing that was asked for";
                return Err(Trouble::Nonsense(message.to_owned()));
            }
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_delete_markers_keep_their_order() {
        let page = versions(
            br#"<?xml version="1.0"?><ListVersionsResult xmlns="x"><Name>b</Name>
            <Prefix/><IsTruncated>true</IsTruncated>
            <DeleteMarker><Key>a&amp;b</Key><VersionId>3</VersionId><IsLatest>true</IsLatest>
              <LastModified>2026-01-03T00:00:00.000Z</LastModified><Owner><ID>o</ID></Owner>
            </DeleteMarker>
            <Version><Key>a&amp;b</Key><VersionId>2</VersionId><IsLatest>false</IsLatest>
              <LastModified>2026-01-02T00:00:00Z</LastModified><Size>7</Size></Version>
            <DeleteMarker><Key>c</Key><VersionId>1</VersionId>
              <LastModified>2026-01-01T00:00:00Z</LastModified></DeleteMarker>
            <NextKeyMarker>c</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker>
            </ListVersionsResult>"#,
        )
        .unwrap();
        let seen: Vec<_> =
            page.entries.iter().map(|v| (v.key.as_str(), v.version_id.as_str(), v.size)).collect();
        assert_eq!(seen, [("a&b", "3", None), ("a&b", "2", Some(7)), ("c", "1", None)]);
        assert!(page.is_truncated);
        assert_eq!(
            (page.next_key.as_deref(), page.next_version.as_deref()),
            (Some("c"), Some("1"))
        );
    }

    #[test]
    fn an_empty_listing_is_one_and_anything_else_is_none() {
        let empty = br#"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount>
            <IsTruncated>false</IsTruncated></ListBucketResult>"#;
        assert!(objects(empty).unwrap().contents.is_empty());
        for other in
            [&b"<html><body>Welcome</body></html>"[..], b"", b"{}", b"<ListVersionsResult/>"]
        {
            assert!(objects(other).is_err(), "{other:?}");
        }
        assert!(versions(empty).is_err());
        assert!(uploads(empty).is_err());
        assert!(objects(b"<ListBucketResult><Contents><Key>x</Key></Contents>").is_err());
    }

    #[test]
    fn errors_are_told_from_other_documents() {
        let told = error(
            b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Wait.</Message></Error>",
        );
        assert_eq!((told.code.as_str(), told.message.as_str()), ("SlowDown", "Wait."));
        assert_eq!(error(b"<html>no</html>").code, "");
        assert_eq!(error(b"\xff\xfe").code, "");
        assert!(!is_error(b"<CompleteMultipartUploadResult/>"));
    }
}
