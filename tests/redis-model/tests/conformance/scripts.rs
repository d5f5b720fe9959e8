//! Calls of all of the product's scripts, and of some that fail in every way that a script can.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use tickgate_kit::dice::Dice;

use crate::words::{EPOCH, stream};

/// Every script under `src/`, by its file name.
static SCRIPTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let mut found = BTreeMap::new();
    gather(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src")), &mut found);
    assert!(found.len() >= 10, "the product's scripts are where they were");
    found
});

fn gather(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "lua") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// Scripts that do what a script must not, and return every type of value.
const ODD: &[&str] = &[
    "return redis.call('HGET', KEYS[1], 'f')",
    "local a = 1\nlocal x = redis.call('XADD', KEYS[1], '*')\nreturn x",
    "local x = redis.pcall('XADD', KEYS[1], '1-*', 'a', 'b') return x",
    "redis.call('DEL', KEYS[1] .. 'x') return redis.pcall('XADD', KEYS[1], 'MAXLEN', '3', '5000000000009-*', 'a', 'b')",
    "return redis.pcall('SUBSCRIBE', 'a')",
    "return redis.call('NOSUCH')",
    "return redis.call()",
    "return redis.call('SET', KEYS[1], {})",
    "return {1, 2.9, true, false, 'x', nil, 4}",
    "return {'a', redis.error_reply('ODD text'), redis.status_reply('OK'), {1, {2}}}",
    "return redis.error_reply('ODD text')",
    "return undefined",
    "undefined = 1",
    "error('said')",
    "return 1 + nil",
    "return (",
    "return {redis.call('SET', KEYS[1], 0.1), redis.call('GET', KEYS[1]), redis.call('DEL', KEYS[1])}",
    "return tostring(1763700000000) .. ' ' .. string.format('%.0f', 2^53) .. ' ' .. 5000000000000 / 7",
    "return redis.call('XINFO', 'STREAM', KEYS[1])",
    "return redis.call('ZRANGE', '{k}:sorted:1', 0, -1, 'WITHSCORES')",
    "return redis.call('HGETALL', '{k}:hash:1')",
];

fn epoch(dice: &mut Dice) -> String {
    (EPOCH + dice.below(6)).to_string()
}

fn entry(dice: &mut Dice) -> String {
    format!("{}-{}", EPOCH + dice.below(6), dice.below(6))
}

fn member(dice: &mut Dice) -> String {
    format!("{}:r{}:s{}", dice.below(5), dice.below(2), dice.below(3))
}

fn publication(dice: &mut Dice, whole: bool) -> Vec<String> {
    let keep = (*dice.choose(&["0", "1", "4", "9", "x"])).to_owned();
    let mut words = vec![format!("{{\"n\":{}}}", dice.below(99)), keep, epoch(dice)];
    let channel = (*dice.choose(&["-", "-", "orders"])).to_owned();
    let ttl = (*dice.choose(&["0", "3600", "-3600", "x"])).to_owned();
    let rest = [format!("17{}", dice.below(9)), channel, ttl];
    let take = if whole { 3 } else { dice.below(4) as usize };
    words.extend(rest.into_iter().take(take));
    words
}

fn publish(dice: &mut Dice) -> (Vec<String>, Vec<String>) {
    let dedupe = |dice: &mut Dice| format!("{{k}}:text:dedupe{}", dice.below(4));
    match dice.below(3) {
        0 => (vec![stream(dice)], publication(dice, false)),
        1 => {
            let mut values = publication(dice, true);
            values.extend(["600000".to_owned(), (*dice.choose(&["one", "other"])).to_owned()]);
            (vec![stream(dice), dedupe(dice)], values)
        }
        _ => {
            let count = dice.between(2, 4);
            let keys = (0..count).map(|_| stream(dice)).collect();
            let mut values: Vec<_> = (0..count).flat_map(|_| publication(dice, true)).collect();
            if dice.chance(100) {
                values.pop();
            }
            (keys, values)
        }
    }
}

/// Keys and values for the script with this name.
fn arguments(name: &str, dice: &mut Dice) -> (Vec<String>, Vec<String>) {
    let user = |dice: &mut Dice| format!("{{k}}:sorted:user{}", dice.below(2));
    let (revoked, standing) = ("{k}:text:revoked".to_owned(), "{k}:text:standing".to_owned());
    let issued = |dice: &mut Dice| (*dice.choose(&["", "1", "9999999999"])).to_owned();
    let lists = || vec!["{k}:sorted:replicas".to_owned(), "{k}:hash:replicas".to_owned()];
    let replica = |dice: &mut Dice| format!("r{}", dice.below(3));
    let life = || "600000".to_owned();
    match name {
        "publish" => publish(dice),
        "lost" => {
            let told = if dice.chance(700) { "-".to_owned() } else { entry(dice) };
            let values = [entry(dice), epoch(dice), "9".into(), "3600".into(), "17!".into(), told, epoch(dice)];
            (vec![stream(dice)], values.into())
        }
        "generation" => {
            let run_id = (*dice.choose(&["one", "other", "third"])).to_owned();
            (vec!["{k}:hash:gen".to_owned()], vec![run_id, epoch(dice)])
        }
        "admit" => {
            let policy = (*dice.choose(&["evict", "refuse"])).to_owned();
            let values = [member(dice), life(), life(), dice.below(3).to_string(), policy, issued(dice)];
            (vec![user(dice), revoked, standing], values.into())
        }
        "readmit" => {
            let policy = (*dice.choose(&["evict", "refuse"])).to_owned();
            let place = if dice.chance(500) { String::new() } else { format!("s{}", dice.below(3)) };
            let values = [member(dice), life(), life(), dice.below(3).to_string(), issued(dice), policy, place];
            (vec![user(dice), revoked, standing, "{k}:sorted:replaced".to_owned()], values.into())
        }
        "bury" => (lists(), vec![replica(dice), (*dice.choose(&["", "now"])).into()]),
        "cluster" => (lists(), Vec::new()),
        "replica" => (lists(), vec![replica(dice), "{}".into(), life(), life()]),
        "hold" => (vec!["{k}:text:lease".into()], vec![replica(dice), life()]),
        "release" => (vec!["{k}:text:lease".into()], vec![replica(dice)]),
        "record" => {
            let json = (*dice.choose(&["", "{}"])).to_owned();
            (vec!["{k}:text:record".into()], vec![format!("{}:r{}", dice.below(4), dice.below(2)), json, life()])
        }
        "revoke" => (vec![revoked], vec![issued(dice), life()]),
        "standing" => {
            let state = (*dice.choose(&["inactive", "active"])).to_owned();
            (vec![standing], vec![dice.below(4).to_string(), state, life()])
        }
        // A script without a description here is called with invalid arguments.
        _ => ((0..dice.below(3)).map(|_| stream(dice)).collect(), (0..dice.below(5)).map(|_| entry(dice)).collect()),
    }
}

/// One call of a script, by its text or by its hash.
pub fn random(dice: &mut Dice) -> Vec<Vec<u8>> {
    let names: Vec<_> = SCRIPTS.keys().collect();
    let (text, (keys, values)) = match dice.below(5) {
        0 => ((*dice.choose(ODD)).to_owned(), (vec![stream(dice)], Vec::new())),
        1 | 2 => (SCRIPTS["publish"].clone(), publish(dice)),
        _ => {
            let name = dice.choose(&names);
            (SCRIPTS[*name].clone(), arguments(name, dice))
        }
    };
    if dice.chance(50) {
        return ["SCRIPT", "LOAD", &text].map(|word| word.as_bytes().to_vec()).into();
    }
    let (verb, text) = if dice.chance(500) { ("EVALSHA", hash(&text)) } else { ("EVAL", text) };
    let count = if dice.chance(10) { 9 } else { keys.len() };
    let words = [vec![verb.to_owned(), text, count.to_string()], keys, values].concat();
    words.into_iter().map(String::into_bytes).collect()
}

fn hash(text: &str) -> String {
    sha1_smol::Sha1::from(text).digest().to_string()
}
