//! What the engine does with every byte, each by itself: `cargo bench -p mainstay-repository`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops at the unexpected")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mainstay_repository as repository;
use repository::format::config::Polynomial;
use repository::format::crypto::MasterKey;
use repository::{
    BlobCompressor, BlobId, Buffers, Chunker, Compression, Node, Tree, TreeEncoder, sha256,
};
use std::hint::black_box;

const MIB: usize = 1 << 20;

/// Bytes that look random, and do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x6d61_696e_7374_6179_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Lines as of a log, which compress well.
fn prose(bytes: usize) -> Vec<u8> {
    let noise = noise(bytes / 32 + 1);
    let mut text = Vec::with_capacity(bytes + 64);
    for (number, word) in noise.iter().cycle().enumerate() {
        text.extend_from_slice(format!("{number} request {word} served\n").as_bytes());
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes);
    text
}

fn chunker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunker");
    let data = noise(32 * MIB);
    group.throughput(Throughput::Bytes(data.len() as u64));
    // A polynomial of the degree that restic uses; which one does not matter for the speed.
    let chunker = Chunker::rabin(Polynomial(0x003d_a335_8b4d_c173));
    group.bench_function("rabin", |bencher| {
        let buffers = Buffers::default();
        bencher.iter(|| {
            for chunk in chunker.chunks(data.as_slice(), &buffers, None) {
                buffers.give(black_box(chunk.unwrap()));
            }
        });
    });
    group.finish();
}

fn crypto(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crypto");
    let data = noise(MIB);
    let other = prose(MIB);
    let key = MasterKey::generate().unwrap();
    group.throughput(Throughput::Bytes(MIB as u64));
    let mut message = vec![0; MIB + 32];
    group.bench_function("seal", |b| b.iter(|| key.seal_in_place(black_box(&mut message))));
    let sealed = message.clone();
    group.bench_function("open", |b| {
        b.iter_batched_ref(
            || sealed.clone(),
            |sealed| black_box(key.open_in_place(sealed).unwrap().len()),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("sha256 of one", |b| b.iter(|| BlobId::of(black_box(&data))));
    group.throughput(Throughput::Bytes(2 * MIB as u64));
    group.bench_function("sha256 of two", |b| {
        b.iter(|| sha256::sums(black_box(&data), black_box(&other)));
    });
    group.finish();
}

fn compression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compression");
    group.throughput(Throughput::Bytes(MIB as u64));
    let levels =
        [("fast", Compression::FAST), ("better", Compression::BETTER), ("max", Compression::MAX)];
    for (name, level) in levels {
        let Compression::Level(level) = level else { continue };
        let mut compressor = BlobCompressor::new(level).unwrap();
        let mut out = Vec::new();
        for (of, data) in [("prose", prose(MIB)), ("noise", noise(MIB))] {
            group.bench_function(format!("{name}, {of}"), |b| {
                b.iter(|| compressor.compress(black_box(&data), &mut out, 0).unwrap());
            });
        }
    }
    group.finish();
}

fn trees(criterion: &mut Criterion) {
    let nodes: Vec<Node> = (0..1000u32)
        .map(|number| {
            let mut node = Node::new(format!("file-{number:05}"), 0o100_644);
            (node.uid, node.gid, node.inode, node.links) = (1000, 1000, number.into(), 1);
            (node.user, node.group) = ("somebody".to_owned(), "users".to_owned());
            node.size = 4096;
            node.content = vec![BlobId::of(&number.to_le_bytes())];
            node
        })
        .collect();
    let encode = || {
        let mut encoder = TreeEncoder::new();
        for node in &nodes {
            encoder.push(node).unwrap();
        }
        encoder.finish()
    };
    let encoded = encode();
    let mut group = criterion.benchmark_group("trees");
    group.throughput(Throughput::Elements(nodes.len() as u64));
    group.bench_function("encode", |b| b.iter(encode));
    group.bench_function("decode", |b| b.iter(|| Tree::decode(black_box(&encoded)).unwrap()));
    group.finish();
}

criterion_group!(engine, chunker, crypto, compression, trees);
criterion_main!(engine);
