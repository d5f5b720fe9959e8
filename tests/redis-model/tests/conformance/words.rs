//! Random commands: those that the product uses, with valid and invalid arguments, on a few keys of every type.

use tickgate_kit::dice::Dice;

/// No clock produces these: a script's results from the current time stay below them.
pub const EPOCH: u64 = 5_000_000_000_000;

/// A key whose name usually says its type.
fn key(dice: &mut Dice, kind: &str) -> String {
    let kind = if dice.chance(30) { *dice.choose(&["text", "hash", "sorted", "set", "stream"]) } else { kind };
    format!("{{k}}:{kind}:{}", dice.below(3))
}

pub fn stream(dice: &mut Dice) -> String {
    format!("{{k}}:stream:{}", dice.below(3))
}

pub fn id(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => "-".into(),
        1 => "+".into(),
        2 => "0-0".into(),
        3 => "nonsense".into(),
        4 => format!("({}-{}", EPOCH + dice.below(4), dice.below(5)),
        5 => format!("{}", EPOCH + dice.below(4)),
        6 => "18446744073709551615-18446744073709551615".into(),
        _ => format!("{}-{}", EPOCH + dice.below(4), dice.below(5)),
    }
}

fn number(dice: &mut Dice) -> String {
    match dice.below(10) {
        0 => "x".into(),
        1 => "-1".into(),
        2 => "0".into(),
        3 => "1.5".into(),
        _ => dice.between(1, 9).to_string(),
    }
}

fn score(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => "-inf".into(),
        1 => "+inf".into(),
        2 => "x".into(),
        3 => format!("({}", dice.below(9)),
        4 => "2.5".into(),
        _ => dice.below(9).to_string(),
    }
}

fn member(dice: &mut Dice) -> String {
    (*dice.choose(&["a", "b", "c", "d"])).to_owned()
}

/// A lifetime that does not end within a round, or has already ended.
fn life(dice: &mut Dice) -> String {
    (*dice.choose(&["1000000", "5000000", "1000000", "0", "-5", "x"])).to_owned()
}

fn add(dice: &mut Dice) -> Vec<String> {
    let mut words = vec!["XADD".to_owned(), key(dice, "stream")];
    if dice.chance(300) {
        words.push("NOMKSTREAM".into());
    }
    if dice.chance(500) {
        words.push((*dice.choose(&["MAXLEN", "MAXLEN", "MINID"])).to_owned());
        let by_id = words.last().is_some_and(|word| word == "MINID");
        if dice.chance(700) {
            words.push((*dice.choose(&["~", "="])).to_owned());
        }
        words.push(if by_id { id(dice) } else { number(dice) });
    }
    words.push(match dice.below(4) {
        0 => id(dice),
        1 => format!("{}-{}", EPOCH + dice.below(4), dice.below(5)),
        _ => format!("{}-*", EPOCH + dice.below(4)),
    });
    words.extend(["d".to_owned(), format!("{{\"n\":{}}}", dice.below(99))]);
    if dice.chance(200) {
        words.extend(["c".to_owned(), "orders".to_owned()]);
    }
    words
}

fn set(dice: &mut Dice) -> Vec<String> {
    let mut words = vec!["SET".to_owned(), key(dice, "text"), dice.below(20).to_string()];
    match dice.below(6) {
        0 => words.extend(["PX".to_owned(), life(dice)]),
        1 => words.extend(["EX".to_owned(), life(dice)]),
        2 => words.push("NX".into()),
        3 => words.extend(["XX".to_owned(), "KEEPTTL".to_owned()]),
        _ => {}
    }
    words
}

fn range(dice: &mut Dice) -> Vec<String> {
    let name = *dice.choose(&["XRANGE", "XREVRANGE"]);
    let mut words = vec![name.to_owned(), key(dice, "stream"), id(dice), id(dice)];
    if dice.chance(500) {
        words.extend(["COUNT".to_owned(), number(dice)]);
    }
    words
}

fn zrange(dice: &mut Dice) -> Vec<String> {
    let mut words = vec!["ZRANGE".to_owned(), key(dice, "sorted")];
    if dice.chance(500) {
        words.extend([score(dice), score(dice), "BYSCORE".to_owned()]);
        if dice.chance(300) {
            words.extend(["LIMIT".to_owned(), number(dice), number(dice)]);
        }
    } else {
        words
            .extend([(*dice.choose(&["0", "1", "-2"])).to_owned(), (*dice.choose(&["-1", "0", "2", "-3"])).to_owned()]);
    }
    if dice.chance(500) {
        words.push("WITHSCORES".into());
    }
    words
}

fn of_keys(dice: &mut Dice) -> Vec<String> {
    let kind = *dice.choose(&["text", "hash", "sorted", "set", "stream"]);
    let key = |dice: &mut Dice| key(dice, kind);
    let plain = |name: &str, words: Vec<String>| [vec![name.to_owned()], words].concat();
    match dice.below(12) {
        0 => plain("DEL", vec![key(dice), key(dice)]),
        1 => plain("UNLINK", vec![key(dice)]),
        2 => plain("EXISTS", vec![key(dice), key(dice), key(dice)]),
        3 => plain("TYPE", vec![key(dice)]),
        4 => plain("EXPIRE", vec![key(dice), life(dice)]),
        5 => plain("PEXPIRE", vec![key(dice), life(dice)]),
        6 => plain("PEXPIRE", vec![key(dice), life(dice), (*dice.choose(&["NX", "XX", "GT", "LT", "ZZ"])).to_owned()]),
        7 => plain("PERSIST", vec![key(dice)]),
        8 => plain("PTTL", vec![key(dice)]),
        9 => plain("TTL", vec![key(dice)]),
        10 => plain("RENAME", vec![key(dice), key(dice)]),
        _ => plain("RENAMENX", vec![key(dice), key(dice)]),
    }
}

fn of_hashes(dice: &mut Dice) -> Vec<String> {
    let (key, field) = (key(dice, "hash"), member(dice));
    let words: Vec<String> = match dice.below(11) {
        0 | 1 => vec!["HSET".into(), key, field, dice.below(9).to_string(), member(dice), "x".into()],
        2 => vec!["HSETNX".into(), key, field, number(dice)],
        3 => vec!["HGET".into(), key, field],
        4 => vec!["HMGET".into(), key, field, member(dice)],
        5 => vec!["HGETALL".into(), key],
        6 => vec!["HDEL".into(), key, field, member(dice)],
        7 => vec!["HLEN".into(), key],
        8 => vec!["HINCRBY".into(), key, field, number(dice)],
        9 => vec!["HSCAN".into(), key, "0".into(), "COUNT".into(), number(dice)],
        _ => vec![(*dice.choose(&["HKEYS", "HEXISTS"])).into(), key, field],
    };
    words
}

fn of_sets(dice: &mut Dice) -> Vec<String> {
    let key = key(dice, "sorted");
    match dice.below(10) {
        0..=2 => vec!["ZADD".into(), key, score(dice), member(dice)],
        9 => vec!["ZADD".into(), key, "XX".into(), "CH".into(), score(dice), member(dice)],
        3 => vec!["ZCARD".into(), key],
        4 => vec!["ZCOUNT".into(), key, score(dice), score(dice)],
        5 => vec!["ZREM".into(), key, member(dice), member(dice)],
        6 => vec!["ZSCORE".into(), key, member(dice)],
        7 => vec!["ZREMRANGEBYSCORE".into(), key, score(dice), score(dice)],
        _ => zrange(dice),
    }
}

fn of_plain_sets(dice: &mut Dice) -> Vec<String> {
    let key = key(dice, "set");
    match dice.below(4) {
        0 => vec!["SADD".into(), key, member(dice), member(dice)],
        1 => vec!["SREM".into(), key, member(dice)],
        2 => vec!["SCARD".into(), key],
        _ => vec!["SISMEMBER".into(), key, member(dice)],
    }
}

fn of_streams(dice: &mut Dice) -> Vec<String> {
    match dice.below(10) {
        0..=3 => add(dice),
        4 => vec!["XDEL".into(), key(dice, "stream"), id(dice), id(dice)],
        5 => {
            vec!["XTRIM".into(), key(dice, "stream"), "MAXLEN".into(), (*dice.choose(&["~", "="])).into(), number(dice)]
        }
        6 => vec![
            (*dice.choose(&["XLEN", "XINFO"])).into(),
            (*dice.choose(&["STREAM", "x"])).into(),
            key(dice, "stream"),
        ],
        7 => vec!["XREAD".into(), "COUNT".into(), number(dice), "STREAMS".into(), key(dice, "stream"), id(dice)],
        _ => range(dice),
    }
}

fn of_links(dice: &mut Dice) -> Vec<String> {
    let channel = format!("{{k}}:channel:{}", dice.below(3));
    match dice.below(12) {
        0 | 1 => vec!["SUBSCRIBE".into(), channel, stream(dice)],
        2 => vec!["UNSUBSCRIBE".into(), channel],
        3..=6 => vec!["PUBLISH".into(), channel, "hello".into()],
        7 => vec!["TIME".into()],
        8 => vec!["CLIENT".into(), "SETNAME".into(), "me".into()],
        9 => vec!["WAIT".into(), "0".into(), number(dice)],
        10 => vec!["CLIENT".into(), "SETINFO".into(), "a".into(), "b".into()],
        _ => vec!["NOSUCH".into(), "a".into()],
    }
}

fn of_text(dice: &mut Dice) -> Vec<String> {
    let key = key(dice, "text");
    match dice.below(7) {
        0 | 1 => set(dice),
        2 => vec!["GET".into(), key],
        3 => vec!["GETDEL".into(), key],
        4 => vec!["GETRANGE".into(), key, number(dice), number(dice)],
        5 => vec!["INCR".into(), key],
        _ => vec!["INCRBY".into(), key, number(dice)],
    }
}

/// One command.
pub fn random(dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut words = match dice.below(10) {
        0 | 1 => of_text(dice),
        2 => of_keys(dice),
        3 => of_hashes(dice),
        4 => of_sets(dice),
        5 => of_plain_sets(dice),
        6..=8 => of_streams(dice),
        _ => of_links(dice),
    };
    if words.len() > 1 && dice.chance(20) {
        words.pop();
    }
    if words.len() == 1 && words[0] == "UNSUBSCRIBE" {
        // Ends the subscriptions in the order of a hash table.
        words.push("none".into());
    }
    words.into_iter().map(String::into_bytes).collect()
}
