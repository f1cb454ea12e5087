use simple_dns::ResourceRecord;
use simple_dns::rdata::{A, AAAA, CNAME};

use super::*;

fn question(family: Family) -> Question {
    Question { id: 0x1234, name: "one.example".to_owned(), family }
}

fn record<'a>(name: &'a str, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 60, data)
}

/// Makes an answer to a query, with the changes of `change`.
fn answer(question: &Question, change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
    let query = question.encode().unwrap();
    let mut packet = Packet::parse(&query).unwrap().into_reply();
    change(&mut packet);
    packet.build_bytes_vec_compressed().unwrap()
}

/// A query is a message with the name, the type, and the flag that asks for recursion.
#[test]
fn questions_are_written() {
    let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03one\x07example\0\0\x01\0\x01";
    assert_eq!(question(Family::V4).encode().unwrap(), expected);
    assert_eq!(question(Family::V6).encode().unwrap()[25..], [0, 28, 0, 1]);
}

/// Addresses of the requested family are taken, in their order and under any name; an IPv4-mapped address counts as IPv4.
#[test]
fn addresses_are_read() {
    let fill = |packet: &mut Packet<'_>| {
        packet.answers.push(record("one.example", RData::CNAME(CNAME(Name::new_unchecked("two.example")))));
        packet.answers.push(record("two.example", RData::A(A { address: 0x0a00_0001 })));
        packet.answers.push(record("two.example", RData::AAAA(AAAA { address: 1 })));
        packet.answers.push(record("two.example", RData::AAAA(AAAA { address: 0xffff_0a00_0002 })));
    };
    let addresses = |texts: &[&str]| Some(Reply::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect()));
    let question = question(Family::V4);
    assert_eq!(question.read(&answer(&question, fill)), addresses(&["10.0.0.1"]));
    let question = super::tests::question(Family::V6);
    assert_eq!(question.read(&answer(&question, fill)), addresses(&["::1", "10.0.0.2"]));
}

/// Each kind of failure is reported as such.
#[test]
fn failures_are_told_apart() {
    let question = question(Family::V4);
    let with = |code| question.read(&answer(&question, |packet| *packet.rcode_mut() = code));
    assert_eq!(with(RCODE::NameError), Some(Reply::Addresses(Vec::new())));
    assert_eq!(with(RCODE::ServerFailure), Some(Reply::Failed));
    assert_eq!(with(RCODE::Refused), Some(Reply::Refused));
    assert_eq!(with(RCODE::NotImplemented), Some(Reply::Refused));
    let truncated = answer(&question, |packet| packet.set_flags(PacketFlag::TRUNCATION));
    assert_eq!(question.read(&truncated[..20]), Some(Reply::Truncated));
}

/// A message that does not answer this very query is ignored: another id, name or type, a query, several questions, none.
#[test]
fn answers_to_other_questions_are_passed_over() {
    let question = question(Family::V4);
    assert!(question.read(&answer(&question, |_| {})).is_some());
    assert_eq!(question.read(&question.encode().unwrap()), None);
    for other in [
        Question { id: 1, ..question.clone() },
        Question { name: "two.example".to_owned(), ..question.clone() },
        Question { family: Family::V6, ..question.clone() },
    ] {
        assert_eq!(question.read(&answer(&other, |_| {})), None);
    }
    assert_eq!(question.read(&answer(&question, |packet| packet.questions.clear())), None);
    let twice = answer(&question, |packet| packet.questions.push(packet.questions[0].clone()));
    assert_eq!(question.read(&twice), None);
}

/// Arbitrary bytes cause no harm: an answer that is truncated, changed in one byte, or claims too many records is decoded or refused.
#[test]
fn broken_answers_do_no_harm() {
    let question = question(Family::V4);
    let whole = answer(&question, |packet| {
        for number in 0..100 {
            packet.answers.push(record("one.example", RData::A(A { address: number })));
        }
    });
    let Some(Reply::Addresses(all)) = question.read(&whole) else { panic!("it is an answer") };
    assert_eq!(all.len(), MOST);
    for length in 0..whole.len() {
        assert_eq!(question.read(&whole[..length]), None, "{length}");
    }
    for index in 0..80 {
        for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
            let mut changed = whole.clone();
            changed[index] = value;
            let _ = question.read(&changed);
        }
    }
    let mut greedy = whole;
    greedy[6..12].fill(0xff);
    assert_eq!(question.read(&greedy), None);
}
