//! The judge: knows every publication with its result, and everything that each client received. Never accepts a silent
//! loss.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tickgate_wire::model::{Class, StreamId};

use crate::{
    client::{SeenEvent, Stories, Story, moves_together},
    gateway::{DEDUPE_TTL, NumberedPublication, RETAIN_TTL, SimPublishOutcome, TOPICS, is_plain, stream_of},
    step::{KeptData, MadeUp, Old, SimStep},
};

/// The kinds of faults, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// An acknowledged publication that a client neither received nor was notified about.
    Silent,
    /// A client that waits for ever, or a gateway that no longer accepts publications.
    Stuck,
    /// One id for two contents.
    TwoContents,
    Twice,
    Disorder,
    FalseComplete,
    /// A gap over what the client has.
    GapOverHad,
    /// A gap where nothing is missing.
    GapOverNothing,
    /// A gap with the wrong reason: a mistake of a client or an engine is reported as Redis's loss.
    Blamed,
    /// More gaps received than counted.
    Uncounted,
    /// `conflated` is not the number of values that were left out.
    Miscounted,
}

/// A fault and its evidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LossFault {
    pub kind: FaultKind,
    pub text: String,
}

impl LossFault {
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// Cursors that were never given.
const MADE_UP: [StreamId; 2] = [MadeUp::Early.id(), MadeUp::Late.id()];

/// Time between two beats, including those in flight.
const BEAT: Duration = Duration::from_millis(1_400);

/// What the promise does not cover, according to docs/guarantees.md.
#[derive(Debug, Default)]
pub struct Excuses {
    /// It is unknown what a gateway acknowledged: it was killed, or its links led nowhere, or engines publish. A change
    /// of server is doubtful.
    pub doubtful: bool,
    /// A server was changed, stopped or replaced.
    changed: bool,
    /// The `msg_id` of a publication may be forgotten: with a dataset, or by a clock, or in time.
    forgets: bool,
    /// A message was lost on an established link. If its stream is lost before the next comparison, the loss cannot be
    /// detected.
    loses: bool,
    idled: Duration,
    /// Streams that were lost together with the knowledge of their ids: returning clients receive `retention`.
    pub vanished: [bool; TOPICS.len()],
    /// The last gateway drained: nobody took over what it acknowledged, and a dataset without its mark does not know that it
    /// left.
    pub deserted: bool,
    /// The key of the generation was evicted; where no gateway remembers it, every cursor is from before everything.
    evicted: bool,
    /// Something was taken out of a stream by hand.
    removed: bool,
    /// A server is stopped; a gateway vouches for what it does not see for a minute at the most.
    stopped: bool,
    /// Two servers may have accepted publications at the same time: those of one are below the positions of clients of
    /// the other, which receive a gap in doubt after them.
    branches: bool,
    /// The first publication of the calm phase.
    pub calm_from: usize,
    /// When the dataset was replaced under the same identity, which is detected with the next beat.
    pub replaced: Vec<Duration>,
}

impl Excuses {
    /// `engines`: engines publish without the roster.
    pub fn new(engines: bool) -> Self {
        Self { doubtful: engines, ..Self::default() }
    }

    pub fn add(&mut self, step: &SimStep, now: Duration) {
        match step {
            SimStep::Kill { .. }
            | SimStep::Suspend { .. }
            | SimStep::Hold { .. }
            | SimStep::Lead { .. }
            | SimStep::Deny(_)
            | SimStep::Fill => {
                self.doubtful = true;
            }
            SimStep::Stop { .. } => self.stopped = true,
            SimStep::Start { .. } => self.stopped = false,
            SimStep::Idle => {
                self.doubtful |= self.stopped;
                self.idled += RETAIN_TTL;
            }
            SimStep::Replace { .. } => self.replaced.push(now),
            SimStep::Lose { .. } => self.loses = true,
            _ => {}
        }
        let splits = matches!(step, SimStep::Lead { .. } | SimStep::Promote { old: Old::Alive, .. });
        // With more than two branches, the order in which they meet is unknown.
        self.doubtful |= splits && self.branches;
        self.branches |= splits;
        // Without a server there is nobody to leave.
        self.doubtful |= matches!(step, SimStep::Drain { .. }) && self.stopped;
        self.changed |= matches!(
            step,
            SimStep::Crash { .. }
                | SimStep::Stop { .. }
                | SimStep::Promote { .. }
                | SimStep::Lead { .. }
                | SimStep::Replace { .. }
                | SimStep::Evict
        );
        self.evicted |= matches!(step, SimStep::Evict);
        self.removed |= matches!(
            step,
            SimStep::Delete { .. }
                | SimStep::Trim { .. }
                | SimStep::Xdel { .. }
                | SimStep::Retype { .. }
                | SimStep::Replace { .. }
        );
        let goes_back = match step {
            SimStep::Crash { keep, .. } | SimStep::Start { keep, .. } => *keep != KeptData::All,
            SimStep::Promote { .. } | SimStep::Lead { .. } | SimStep::Replace { .. } => true,
            _ => false,
        };
        self.doubtful |= goes_back && self.deserted;
        self.forgets |= goes_back || matches!(step, SimStep::Clock { .. }) || self.idled * 2 > DEDUPE_TTL;
    }

    /// Whether a change of server may be in doubt, or the loss of the generation's key together with what somebody removed.
    const fn may_doubt(&self) -> bool {
        self.doubtful && self.changed || self.evicted && self.removed
    }

    /// Whether a position may be of a branch that another gateway has not heard of: a value then goes back unseen, since of
    /// values no gap is told.
    const fn may_go_back(&self) -> bool {
        self.branches || self.evicted || self.changed && self.doubtful
    }

    /// Whether a position may be unknown to a gateway although nothing is missing: it is of another branch, or was given
    /// in a dataset that was replaced less than a beat ago.
    const fn loses_positions(&self) -> bool {
        self.branches || !self.replaced.is_empty()
    }

    /// Whether the newest connection of a session is known to all: there is one order of them.
    pub const fn keeps_places(&self) -> bool {
        !self.branches
    }

    /// Whether nothing is promised about it: it was published less than a beat before or after its dataset was
    /// replaced.
    fn covers(&self, publication: &NumberedPublication) -> bool {
        self.replaced.iter().any(|at| at.abs_diff(publication.at) < BEAT)
    }
}

fn fault<T>(kind: FaultKind, text: String) -> Result<T, LossFault> {
    Err(LossFault { kind, text })
}

/// Judges a whole run: every client is connected, and the last publications were acknowledged on a calm system. `gaps`:
/// how many were received, and counted. Returns all faults, the worst first.
pub fn judge(
    clients: &[&Stories],
    publications: &[NumberedPublication],
    (heard, counted): (u64, u64),
    excuses: &Excuses,
) -> Vec<LossFault> {
    let mut faults = Vec::new();
    let mut add = |found: Result<(), LossFault>, who: &str| {
        faults.extend(found.err().map(|own| LossFault::new(own.kind, format!("{who}{}", own.text))));
    };
    add(contents(clients, publications, excuses), "");
    add(repeats(publications, excuses), "");
    for (number, client) in clients.iter().enumerate() {
        for (at, story) in client.iter().enumerate() {
            let who = format!("client {number}, {}: ", TOPICS[at].0);
            let is_certain = |number: &usize| publications.get(*number).is_none_or(|own| !excuses.covers(own));
            if is_plain(at) {
                add(passed(story, at, publications, excuses), &who);
                add(no_gap(story, at, "nothing is kept"), &who);
                continue;
            }
            let is_value = TOPICS[at].1 == Class::State;
            add(order(story, at, publications, excuses), &who);
            if is_value {
                add(newest(story, at, publications), &who);
                add(no_gap(story, at, "only the newest value is owed"), &who);
                add(left_out(story, excuses), &who);
            } else {
                add(owed(story, at, publications, excuses), &who);
                add(ends(story, at, publications), &who);
                add(over_had(story, is_certain), &who);
                add(over_nothing((client, number), at, publications, excuses), &who);
                add(blamed(story, at, publications, excuses), &who);
            }
        }
    }
    if heard > counted {
        add(fault(FaultKind::Uncounted, format!("{heard} gaps heard, {counted} counted")), "");
    }
    faults.sort();
    faults
}

/// The first of a publication and its duplicates.
fn group(publications: &[NumberedPublication], number: usize) -> usize {
    publications.get(number).and_then(|own| own.first).unwrap_or(number)
}

/// Checks that every id has one content, whoever reports it.
fn contents(clients: &[&Stories], publications: &[NumberedPublication], excuses: &Excuses) -> Result<(), LossFault> {
    let is_certain = |number: usize| publications.get(number).is_none_or(|own| !excuses.covers(own));
    let mut known = BTreeMap::new();
    let mut check = |topic: usize, id: StreamId, number: usize| {
        let group = group(publications, number);
        match known.insert((stream_of(topic), id), group) {
            Some(other) if other != group && is_certain(other) && is_certain(group) => {
                fault(FaultKind::TwoContents, format!("{}: {id} is {other} and {number}", TOPICS[topic].0))
            }
            _ => Ok(()),
        }
    };
    for (number, publication) in publications.iter().enumerate() {
        if let Some(id) = publication.id() {
            check(publication.topic, id, number)?;
        }
    }
    for client in clients {
        for (topic, story) in client.iter().enumerate() {
            for seen in &story.seen {
                if let SeenEvent::Message { id, number, .. } = seen
                    && !is_plain(topic)
                {
                    check(topic, *id, *number)?;
                }
            }
        }
    }
    Ok(())
}

/// Checks that publications with one `msg_id` are stored once.
fn repeats(publications: &[NumberedPublication], excuses: &Excuses) -> Result<(), LossFault> {
    let mut stored = BTreeMap::new();
    for (number, own) in publications.iter().enumerate() {
        if let (Some(first), SimPublishOutcome::Acknowledged(id)) = (own.first, &own.outcome)
            && let Some((other, before)) = stored.insert(first, (number, *id))
            && !excuses.forgets
        {
            return fault(FaultKind::Twice, format!("{number} ({id}) repeats {other} ({before}) and was stored again"));
        }
    }
    Ok(())
}

/// Checks that nothing arrives twice, and ids only increase. The value with which a subscription starts may repeat; where
/// there may be branches, values may go back with a new connection, which only a gap could tell.
fn order(
    story: &Story,
    topic: usize,
    publications: &[NumberedPublication],
    excuses: &Excuses,
) -> Result<(), LossFault> {
    let (mut had, mut last) = (BTreeSet::new(), None::<StreamId>);
    let may_go_back = TOPICS[topic].1 == Class::State && excuses.may_go_back();
    for seen in &story.seen {
        let connects = matches!(seen, SeenEvent::Subscribed { .. });
        if is_sent_back(seen) || may_go_back && connects {
            (had, last) = (BTreeSet::new(), None);
        }
        let SeenEvent::Message { id, number, snapshot, .. } = seen else { continue };
        let Some(own) = publications.get(*number).filter(|own| !excuses.covers(own)) else { continue };
        // A duplicate may be stored again if its `msg_id` was lost.
        let may_repeat = own.first.is_some() && excuses.forgets;
        if !had.insert(*number) && !snapshot && !may_repeat {
            return fault(FaultKind::Twice, format!("{number} ({id}) came twice"));
        }
        if last.is_some_and(|last| *id <= last) && !snapshot {
            return fault(FaultKind::Disorder, format!("{number} ({id}) came after {}", last.unwrap_or_default()));
        }
        last = Some(*id);
    }
    Ok(())
}

/// Checks that `conflated` between two values of one epoch equals the difference of their ids.
fn left_out(story: &Story, excuses: &Excuses) -> Result<(), LossFault> {
    let mut last = None::<StreamId>;
    for seen in &story.seen {
        match seen {
            SeenEvent::Subscribed { .. } => last = None,
            SeenEvent::Message { id, number, snapshot, conflated, .. } => {
                let between = last.and_then(|last| StreamId::missing_between(last, *id)).filter(|_| !snapshot);
                if between.is_some_and(|between| between != *conflated) && excuses.replaced.is_empty() {
                    let last = last.unwrap_or_default();
                    return fault(
                        FaultKind::Miscounted,
                        format!("{number} ({id}) came after {last}, with {conflated} left out"),
                    );
                }
                last = Some(*id);
            }
            SeenEvent::Gap { .. } | SeenEvent::CaughtUp { .. } => {}
        }
    }
    Ok(())
}

/// Checks that a backlog reported as complete has no gap: none before its end, and none later over what had been
/// published before the connection started.
fn ends(story: &Story, topic: usize, publications: &[NumberedPublication]) -> Result<(), LossFault> {
    let (mut connection, mut told) = (0, None);
    for (at, seen) in story.seen.iter().enumerate() {
        match seen {
            SeenEvent::Subscribed { begun, .. } => (connection, told) = (*begun, None),
            SeenEvent::Gap { after, .. } => told = told.or(Some(*after)),
            SeenEvent::CaughtUp { complete: true, cursor } => {
                let end = cursor.unwrap_or_default();
                if let Some(after) = told {
                    return fault(FaultKind::FalseComplete, format!("complete up to {end}, with a gap after {after}"));
                }
                let is_same = |range: &&Range| {
                    let between = &story.seen[at..range.at.max(at)];
                    range.at > at && !between.iter().any(|seen| matches!(seen, SeenEvent::Subscribed { .. }))
                };
                for range in ranges(story).iter().filter(is_same) {
                    let earlier = publications[..connection].iter().enumerate();
                    let mut lost = earlier.filter(|(number, own)| own.topic == topic && !has(story, *number, own));
                    let covered = |own: &NumberedPublication| matches!(own.outcome, SimPublishOutcome::Acknowledged(id) if range.covers(id) && id <= end);
                    if let Some((number, _)) = lost.find(|(_, own)| covered(own)) {
                        return fault(
                            FaultKind::FalseComplete,
                            format!("complete up to {end}, then a gap over {number}"),
                        );
                    }
                }
            }
            SeenEvent::CaughtUp { .. } | SeenEvent::Message { .. } => {}
        }
    }
    Ok(())
}

/// Checks that invented cursors and invalid payloads are not reported as losses of Redis, and that slow readers miss
/// messages of one class only.
fn blamed(
    story: &Story,
    topic: usize,
    publications: &[NumberedPublication],
    excuses: &Excuses,
) -> Result<(), LossFault> {
    for (range, seen) in ranges(story).iter().map(|range| (range, &story.seen[range.at])) {
        let SeenEvent::Gap { reason, count, .. } = seen else { continue };
        let missing = |own: &&NumberedPublication| {
            own.topic == topic && matches!(own.outcome, SimPublishOutcome::Acknowledged(id) if range.covers(id))
        };
        let mut missing = publications.iter().filter(missing).peekable();
        let is_doubt = count.is_none() && excuses.may_doubt();
        let is_odd = missing.peek().is_some() && missing.all(|own| own.is_odd) && !is_doubt;
        let is_made_up = MADE_UP.contains(&range.after);
        let is_slow = reason == "slow_consumer" && TOPICS[topic].1 != Class::Event;
        if reason == "failover" && (is_odd || is_made_up) || is_slow {
            let (after, before) = (range.after, range.before);
            return fault(FaultKind::Blamed, format!("gap {after} to {before} is told as {reason}"));
        }
    }
    Ok(())
}

/// Checks that everything acknowledged arrived or was reported as missing. Guaranteed is what was published after the
/// client's first subscription was confirmed.
fn owed(story: &Story, topic: usize, publications: &[NumberedPublication], excuses: &Excuses) -> Result<(), LossFault> {
    let begun = story.seen.iter().find_map(|seen| match seen {
        SeenEvent::Subscribed { begun, .. } => Some(*begun),
        _ => None,
    });
    let Some(begun) = begun else { return fault(FaultKind::Stuck, "was never subscribed".into()) };
    let ranges = ranges(story);
    for (number, publication) in publications.iter().enumerate().skip(begun) {
        let Some(id) = publication.id() else { continue };
        if publication.topic != topic
            || publication.first.is_some_and(|first| first < begun)
            || excuses.covers(publication)
            || excuses.loses && excuses.vanished[topic]
            || has(story, number, publication)
            || ranges.iter().any(|range| range.covers(id))
            || was_sent_back_behind(story, number, id)
            || publications.iter().any(|other| other.id() == Some(id) && excuses.covers(other))
            || excuses.branches && doubts_behind(story, id)
        {
            continue;
        }
        let kind = if number >= excuses.calm_from { FaultKind::Stuck } else { FaultKind::Silent };
        return fault(kind, format!("{number} ({id}) by {} is missing and was not told", publication.by));
    }
    Ok(())
}

/// Whether the client was told that its position is of no branch that is known: whatever it has is another one's, and only a
/// snapshot says what there is.
fn is_sent_back(seen: &SeenEvent) -> bool {
    matches!(seen, SeenEvent::Gap { after, before: None, reason, cursor: Some(cursor), .. }
        if reason == "retention" && cursor < after)
}

/// Whether that was after this publication had begun, and covers its id.
fn was_sent_back_behind(story: &Story, number: usize, id: StreamId) -> bool {
    let mut begun = 0;
    story.seen.iter().any(|seen| {
        if let SeenEvent::Subscribed { begun: now, .. } = seen {
            begun = *now;
        }
        is_sent_back(seen) && number < begun && matches!(seen, SeenEvent::Gap { after, .. } if id <= *after)
    })
}

/// Whether the client was told, at a position above this one, that nobody can say what it lacks.
fn doubts_behind(story: &Story, id: StreamId) -> bool {
    story.seen.iter().any(
        |seen| matches!(seen, SeenEvent::Gap { after, count: None, reason, .. } if reason == "failover" && *after > id),
    )
}

fn came(story: &Story, number: usize) -> bool {
    story.seen.iter().any(|seen| matches!(seen, SeenEvent::Message { number: own, .. } if *own == number))
}

/// Whether it arrived; duplicates arrive with the id that the publisher received.
fn has(story: &Story, number: usize, publication: &NumberedPublication) -> bool {
    match publication.id().filter(|_| publication.first.is_some()) {
        Some(id) => came_as(story, id),
        None => came(story, number),
    }
}

fn came_as(story: &Story, id: StreamId) -> bool {
    story.seen.iter().any(|seen| matches!(seen, SeenEvent::Message { id: own, .. } if *own == id))
}

/// A range that was reported as missing.
#[derive(Debug)]
struct Range {
    at: usize,
    after: StreamId,
    before: StreamId,
}

impl Range {
    fn covers(&self, id: StreamId) -> bool {
        self.after < id && id < self.before
    }
}

/// An open range ends at the next message.
fn ranges(story: &Story) -> Vec<Range> {
    let gap = |(at, seen): (usize, &SeenEvent)| {
        let SeenEvent::Gap { after, before, .. } = seen else { return None };
        let next = story.seen[at..].iter().find_map(|seen| match seen {
            SeenEvent::Message { id, .. } => Some(*id),
            _ => None,
        });
        let before = before.or(next).unwrap_or(StreamId::MAX);
        Some(Range { at, after: *after, before })
    };
    story.seen.iter().enumerate().filter_map(gap).collect()
}

/// Checks that no gap covers what the client has.
fn over_had(story: &Story, is_certain: impl Fn(&usize) -> bool) -> Result<(), LossFault> {
    for Range { at, after, before, .. } in ranges(story) {
        let since = story.seen[..at].iter().rposition(is_sent_back).unwrap_or(0);
        for seen in &story.seen[since..at] {
            if let SeenEvent::Message { id, number, .. } = seen
                && after < *id
                && *id < before
                && is_certain(number)
            {
                return fault(
                    FaultKind::GapOverHad,
                    format!("gap {after} to {before} over {number} ({id}), which it has"),
                );
            }
        }
    }
    Ok(())
}

/// Checks that each gap covers something of the stream that the client does not have. One from `0-0` is always
/// permitted, one in doubt wherever something may be missing.
fn over_nothing(
    (client, who): (&Stories, usize),
    topic: usize,
    publications: &[NumberedPublication],
    excuses: &Excuses,
) -> Result<(), LossFault> {
    let story = &client[topic];
    let in_stream = |own: &NumberedPublication| stream_of(own.topic) == stream_of(topic);
    let is_excused = |range: &Range| match &story.seen[range.at] {
        SeenEvent::Gap { count: None, reason, .. } if reason == "failover" && excuses.may_doubt() => true,
        SeenEvent::Gap { reason, .. } if reason == "retention" && excuses.vanished[topic] => true,
        SeenEvent::Gap { reason, .. } if reason == "retention" && excuses.evicted && excuses.doubtful => true,
        // It came with the cursor of a branch that its gateway has not heard of, or of a dataset that was just replaced.
        SeenEvent::Gap { reason, before: None, .. } if reason == "retention" && excuses.loses_positions() => true,
        SeenEvent::Gap { .. } => publications.iter().any(|own| in_stream(own) && excuses.covers(own)),
        _ => false,
    };
    let is_free = |range: &&Range| range.after == StreamId::ZERO || MADE_UP.contains(&range.after);
    for range in ranges(story).iter().filter(|range| !is_free(range)) {
        let mut own = publications.iter().enumerate().filter(|(_, own)| in_stream(own));
        // What was removed from a stream may have belonged to another channel: a client that moves each channel
        // separately is notified anyway.
        let by_another = |own: &NumberedPublication| own.topic != topic && !moves_together(who);
        let is_missing = own.any(|(number, own)| match own.outcome {
            SimPublishOutcome::Acknowledged(id) | SimPublishOutcome::Repeat(id) if range.covers(id) => {
                !has(&client[own.topic], number, own) || by_another(own) || excuses.covers(own)
            }
            // It may have been stored and lost.
            SimPublishOutcome::Unknown | SimPublishOutcome::Pending => true,
            SimPublishOutcome::Acknowledged(_)
            | SimPublishOutcome::Repeat(_)
            | SimPublishOutcome::Sent
            | SimPublishOutcome::Refused => false,
        });
        if !is_missing && !is_excused(range) {
            let Range { after, before, .. } = range;
            return fault(FaultKind::GapOverNothing, format!("gap {after} to {before}, where nothing is missing"));
        }
    }
    Ok(())
}

/// Checks that without retention nothing arrives twice, and what is published in the calm phase arrives.
fn passed(
    story: &Story,
    topic: usize,
    publications: &[NumberedPublication],
    excuses: &Excuses,
) -> Result<(), LossFault> {
    let (mut had, mut from) = (BTreeSet::new(), usize::MAX);
    for seen in &story.seen {
        if let SeenEvent::Subscribed { begun, .. } = seen {
            from = *begun;
        }
        let SeenEvent::Message { number, .. } = seen else { continue };
        let may_repeat = publications.get(*number).is_none_or(|own| own.first.is_some() && excuses.forgets);
        if !had.insert(*number) && !may_repeat {
            return fault(FaultKind::Twice, format!("{number} came twice"));
        }
    }
    let calm = publications.iter().enumerate().skip(excuses.calm_from.max(from));
    let mut missing = calm.filter(|(number, own)| own.topic == topic && own.is_accepted() && !had.contains(number));
    match missing.next() {
        Some((number, _)) => fault(FaultKind::Stuck, format!("{number} never came")),
        None => Ok(()),
    }
}

/// Checks that topics that guarantee only the newest value, or nothing, have no gaps.
fn no_gap(story: &Story, topic: usize, why: &str) -> Result<(), LossFault> {
    // A slow reader is told what it missed of any event.
    let may_drop = TOPICS[topic].1 == Class::Event;
    let is_wrong =
        |seen: &&SeenEvent| matches!(seen, SeenEvent::Gap { reason, .. } if !may_drop || reason != "slow_consumer");
    match story.seen.iter().find(is_wrong) {
        Some(gap) => fault(FaultKind::GapOverNothing, format!("{why}: {gap:?}")),
        None => Ok(()),
    }
}

/// Checks that the last value arrived.
fn newest(story: &Story, topic: usize, publications: &[NumberedPublication]) -> Result<(), LossFault> {
    let last = publications.iter().enumerate().rev().find(|(_, own)| own.topic == topic);
    match last {
        Some((number, own)) if own.id().is_some() && !came(story, number) => {
            fault(FaultKind::Stuck, format!("the last value {number} never came"))
        }
        _ => Ok(()),
    }
}

/// A story in one line.
pub fn tell(story: &Story) -> String {
    let seen = |seen: &SeenEvent| match seen {
        SeenEvent::Subscribed { cursor, gateway, .. } => format!("|at {gateway} {cursor}|"),
        SeenEvent::Message { id, number, snapshot, replayed, conflated } => {
            let mark = match (snapshot, replayed, conflated) {
                (true, ..) => " snapshot".to_owned(),
                (_, true, _) => " replayed".to_owned(),
                (.., 0) => String::new(),
                _ => format!(" after {conflated}"),
            };
            let number = if *number == usize::MAX { "stray".to_owned() } else { number.to_string() };
            format!("{number}={id}{mark}")
        }
        SeenEvent::Gap { after, before, count, reason, .. } => {
            let before = before.map_or("…".to_owned(), |before| before.to_string());
            let count = count.map_or("?".to_owned(), |count| count.to_string());
            format!("[gap {after} to {before}, {count}, {reason}]")
        }
        SeenEvent::CaughtUp { complete, .. } => format!("(caught up, complete {complete})"),
    };
    story.seen.iter().map(seen).collect::<Vec<_>>().join(" ")
}
