//! Blocks between two processes, and blocks that a hostile worker names.

use super::super::{BadBlock, BlockName};
use super::*;
use std::os::fd::AsFd;

const BOTH_WAYS: &str = r"
import hashlib
view = incoming.view(INDEX, LEN)
answer = hashlib.sha256(view).hexdigest()
del view
answer = answer, incoming.unused()";

#[tokio::test]
async fn a_body_crosses_both_ways_and_its_block_is_used_again() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    for round in 0..3u8 {
        let half = vec![round; 100_000];
        let name = link.outgoing.put(&[&half, b"", &half]).expect("room");
        assert_eq!(name, BlockName { index: 0, len: 200_000 }, "recycled");
        let code = BOTH_WAYS.replace("INDEX", "0").replace("LEN", "200000");
        let own = format!("import hashlib; own = hashlib.sha256(bytes([{round}]) * 200000).hexdigest()\n{code}\n");
        assert_eq!(ask(&mut link, &(own + "answer = answer == (own, [0])")).await, "True");
        link.outgoing.released(0).expect("it was lent");

        let put = format!("answer = outgoing.put([bytes([{round}]) * 70000, b'', memoryview(b'end')], 70003)");
        assert_eq!(ask(&mut link, &put).await, "(0, 70003)");
        let body = link.incoming.take(BlockName { index: 0, len: 70_003 }).expect("a body");
        assert!(body[..70_000].iter().all(|&byte| byte == round) && body.ends_with(b"end"));
        ask(&mut link, "outgoing.released(0)").await;
    }
}

#[tokio::test]
async fn a_block_is_unused_only_when_no_view_of_a_view_is_left() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    link.outgoing.put(&[b"0123456789"]).expect("room");
    let code = r"
a = incoming.view(0, 10); b = a[2:8]; c = memoryview(b)[1:]
c[0] = 65
first = incoming.unused(); del a, b; second = incoming.unused(); text = bytes(c); del c
answer = first, second, incoming.unused(), incoming.unused(), text";
    assert_eq!(ask(&mut link, code).await, "([], [], [0], [], b'A4567')");
}

#[tokio::test]
async fn names_that_a_worker_cannot_have_meant_are_refused() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    ask(&mut link, "outgoing.put([b'x' * 100], 100)").await;
    let mut take = |index, len| link.incoming.take(BlockName { index, len });
    assert!(matches!(take(1, 1), Err(BadBlock::Unknown(1))));
    assert!(matches!(take(u32::MAX, u64::MAX), Err(BadBlock::Unknown(u32::MAX))));
    assert!(matches!(take(0, u64::MAX), Err(BadBlock::TooLong { size: 65_536, .. })));
    assert!(matches!(take(0, 65_537), Err(BadBlock::TooLong { .. })));
    assert_eq!(take(0, 65_536).expect("all of it").len(), 65_536);
    assert!(take(0, 0).expect("nothing").is_empty());
    assert!(matches!(link.outgoing.released(0), Err(BadBlock::NotInUse(0))), "never lent");
}

#[tokio::test]
async fn memory_that_is_not_what_it_claims_is_refused() {
    let send = |what: &str| {
        format!(
            "import array, socket, struct, fcntl\n{what}\n\
             side = socket.socket(fileno=os.dup(4))\n\
             rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))]\n\
             side.sendmsg([payload], rights if fds else [])"
        )
    };
    let unsealed =
        "fd = os.memfd_create('x'); os.ftruncate(fd, 65536); fds = [fd]; payload = struct.pack('<QQ', 0, 65536)";
    let sealed = "fd = os.memfd_create('x', 3); os.ftruncate(fd, SIZE); fcntl.fcntl(fd, 1033, 7); fds = [fd]; ";
    let cases = [
        (unsealed.to_owned(), "not sealed"),
        ("fds = list(os.pipe()[:1]); payload = struct.pack('<QQ', 0, 65536)".to_owned(), "not sealed"),
        ("fds = []; payload = struct.pack('<QQ', 0, 65536)".to_owned(), "not one descriptor"),
        ("fds = [1, 2]; payload = struct.pack('<QQ', 0, 65536)".to_owned(), "not one descriptor"),
        ("fds = [1]; payload = b'short'".to_owned(), "not the next block"),
        ("fds = [1]; payload = struct.pack('<QQ', 5, 65536)".to_owned(), "not the next block"),
        (format!("{}payload = struct.pack('<QQ', 0, 65537)", sealed.replace("SIZE", "65536")), "its size"),
        (format!("{}payload = struct.pack('<QQ', 0, 1 << 40)", sealed.replace("SIZE", "1 << 40")), "its size"),
        (format!("{}payload = struct.pack('<QQ', 0, 0)", sealed.replace("SIZE", "0")), "its size"),
    ];
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    for (slot, (code, says)) in cases.iter().enumerate() {
        let mut link = zygote.fork(&worker(slot as u32), 0).expect("a fork");
        assert_eq!(ask(&mut link, &send(code)).await, "", "{code}");
        match link.incoming.take(BlockName { index: 0, len: 10 }) {
            Err(error @ BadBlock::Invalid { .. }) => assert!(error.to_string().contains(says), "{code}: {error}"),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_pools_are_bounded_and_idle_memory_is_given_back() {
    let marked = Marked::new();
    let (mut zygote, _events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    for index in 0..64 {
        assert_eq!(link.outgoing.put(&[b"x"]).expect("room").index, index);
    }
    let full = link.outgoing.put(&[b"x"]).expect_err("no block is left");
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(ask(&mut link, "answer = bytes(incoming.view(63, 1))").await, "b'x'");
    link.outgoing.released(17).expect("it was lent");
    assert_eq!(link.outgoing.put(&[b"y"]).expect("room").index, 17);

    let mut link = zygote.fork(&worker(1), 0).expect("a fork");
    let large = vec![1; 40 << 20];
    for _ in 0..2 {
        link.outgoing.put(&[&large]).expect("room");
    }
    link.outgoing.released(0).expect("it was lent");
    assert_eq!(link.outgoing.idle_bytes(), 40 << 20);
    link.outgoing.released(1).expect("it was lent");
    assert_eq!(link.outgoing.idle_bytes(), 40 << 20, "one of two is emptied");
    link.outgoing.trim();
    assert_eq!(link.outgoing.idle_bytes(), 0);
    assert_eq!(link.outgoing.put(&[&large]).expect("room").len, 40 << 20, "an emptied block is used again");
    let same = "view = incoming.view(0, 40 << 20); answer = view[0], view[-1], len(view)";
    assert_eq!(ask(&mut link, same).await, "(1, 1, 41943040)");
}

#[tokio::test]
async fn a_body_in_a_block_outlives_the_worker_that_wrote_it() {
    let marked = Marked::new();
    let (mut zygote, mut events) = start(spec(&marked)).await;
    let mut link = zygote.fork(&worker(0), 0).expect("a fork");
    forked(&mut events).await;
    ask(&mut link, "outgoing.put([b'z' * 100000], 100000)").await;
    tell(&link, "os.kill(os.getpid(), 9)");
    exited(&mut events).await;
    let body = link.incoming.take(BlockName { index: 0, len: 100_000 }).expect("it was written completely");
    assert_eq!(body, vec![b'z'; 100_000]);
}

#[test]
fn a_body_of_many_parts_is_written_whole() {
    let (here, far) = super::super::fds::message_pair().expect("a pair");
    let mut pool = super::super::BlockPool::new(std::sync::Arc::new(here));
    let parts: Vec<Vec<u8>> = (0..5000u32).map(|part| vec![part as u8; part as usize % 50]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let name = pool.put(&slices).expect("room");
    rustix::io::ioctl_fionbio(far.as_fd(), true).expect("ioctl");
    let mut table = super::super::BlockTable::new(std::sync::Arc::new(far));
    assert_eq!(table.take(name).expect("a body"), parts.concat());
}
