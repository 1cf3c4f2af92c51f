//! Another real S3 server, of other authors: s3s-fs, which keeps a bucket in a directory. It honours
//! conditions, checks signatures, and takes a lock without keeping it.

use crate::s3::{key, open, options, tuning};
use crate::vault::Certificate;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use mainstay_storage::probe::{Retention, Verdict, compare_and_set, retention};
use mainstay_storage::s3::Credentials;
use mainstay_storage::{ErrorKind, Put, Storage};
use model::{Classify, Secret};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// A running server with one bucket, `bucket`. It ends when this is dropped.
pub(crate) struct RustServer {
    endpoint: String,
    _runtime: tokio::runtime::Runtime,
    _root: TempDir,
}

impl RustServer {
    pub(crate) fn start() -> RustServer {
        RustServer::start_with(None)
    }

    /// With this certificate, over TLS.
    fn start_with(certificate: Option<&Certificate>) -> RustServer {
        let root = TempDir::new().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("an-id", "a-secret-key"));
        let service = builder.build();
        // It looks whether an object is there and writes it then. A test must not depend on how
        // two requests meet.
        let one_at_a_time = Arc::new(Mutex::new(()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = certificate.map(Certificate::acceptor);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://localhost:{port}");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, one_at_a_time) = (service.clone(), one_at_a_time.clone());
                let tls = tls.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let (service, one_at_a_time) = (service.clone(), one_at_a_time.clone());
                        async move {
                            let _turn = one_at_a_time.lock().await;
                            service.call(request.map(s3s::Body::from)).await
                        }
                    });
                    // A client that goes away is no failure of the server.
                    let builder = Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), answer).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let stream = TokioIo::new(stream);
                                drop(builder.serve_connection(stream, answer).await);
                            }
                        }
                    }
                });
            }
        });
        RustServer { endpoint, _runtime: runtime, _root: root }
    }

    pub(crate) fn open(&self, prefix: &str) -> Arc<dyn Storage> {
        open(&self.endpoint, &format!("bucket/{prefix}"))
    }
}

#[test]
fn conditions_pass_and_locks_are_found_to_be_forgotten() {
    let server = RustServer::start();
    let storage = server.open("v");
    assert_eq!(compare_and_set(&*storage).unwrap(), Verdict::Holds);
    match retention(&*storage).unwrap() {
        Retention::Refused(reason) => assert!(reason.contains("keeps no versions"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(storage.list("").unwrap(), []);
}

#[test]
fn a_signature_with_another_secret_is_refused_and_nothing_is_there() {
    let server = RustServer::start();
    let mut stranger = options(tuning());
    stranger.s3.credentials = Credentials::Key {
        id: "an-id".to_owned(),
        secret: Secret::new("another-secret".to_owned()),
        token: None,
    };
    let url = format!("s3:{}/bucket/v", server.endpoint);
    let stranger = mainstay_storage::open(&url, &stranger).unwrap();
    let errors = [
        stranger.put(&key("data/1"), b"x").unwrap_err(),
        stranger.put_if_absent(&key("data/1"), b"x").unwrap_err(),
        stranger.list("").unwrap_err(),
        stranger.delete(&key("data/1")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    }
    let owner = server.open("v");
    assert_eq!(owner.put_if_absent(&key("data/1"), b"x").unwrap(), Put::Created);
    assert_eq!(owner.list("").unwrap().len(), 1);
}

#[test]
fn large_objects_come_back_whole_from_a_directory_too() {
    let server = RustServer::start();
    let storage = server.open("v");
    let bytes: Vec<u8> = (0_u32..3_000_000).flat_map(u32::to_le_bytes).collect();
    storage.put(&key("data/large"), &bytes).unwrap();
    assert!(storage.read(&key("data/large")).unwrap() == bytes);
}

#[test]
fn a_server_over_tls_is_believed_by_its_certificate_only() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let server = RustServer::start_with(Some(&certificate));
    let url = format!("s3:{}/bucket/v", server.endpoint);
    let trusting = |file: Option<std::path::PathBuf>| {
        let mut options = options(tuning());
        options.s3.ca_file = file;
        mainstay_storage::open(&url, &options).unwrap()
    };
    let storage = trusting(Some(certificate.file()));
    storage.put(&key("data/1"), b"x").unwrap();
    assert_eq!(storage.read(&key("data/1")).unwrap(), b"x");
    for file in [None, Some(other.file())] {
        let begun = std::time::Instant::now();
        let error = trusting(file).read(&key("data/1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.to_string().contains("no secure connection"), "{error}");
        assert!(error.hint().unwrap().contains("ca-file"), "{error}");
        assert!(begun.elapsed() < tuning().give_up, "it is not tried again");
    }
}

#[test]
fn the_key_may_be_in_a_credentials_file() {
    let server = RustServer::start();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("credentials");
    let text = "[default]\naws_access_key_id = somebody\naws_secret_access_key = else\n\n\
                [vault]\naws_access_key_id = an-id\naws_secret_access_key = a-secret-key\n";
    std::fs::write(&file, text).unwrap();
    let with = |path: &std::path::Path, profile: Option<&str>| {
        let mut options = options(tuning());
        let profile = profile.map(str::to_owned);
        options.s3.credentials = Credentials::File { path: path.to_owned(), profile };
        mainstay_storage::open(&format!("s3:{}/bucket/v", server.endpoint), &options)
    };
    let storage = with(&file, Some("vault")).unwrap();
    storage.put(&key("data/1"), b"x").unwrap();
    assert_eq!(storage.read(&key("data/1")).unwrap(), b"x");
    let stranger = with(&file, None).unwrap();
    assert_eq!(stranger.read(&key("data/1")).unwrap_err().kind(), ErrorKind::Permission);
    let error = with(&file, Some("nobody")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("profile nobody"), "{error}");
    let error = with(&dir.path().join("gone"), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
