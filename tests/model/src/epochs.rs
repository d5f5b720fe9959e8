//! The protocol: generations, a roster, boundaries that are proven or in doubt. One server at a time, one topic.
//!
//! Abstracted: time (a lease may expire whenever its holder is disconnected), numbers (a new generation is any unused
//! number above all that were seen), and a client's socket (a client has what its replica delivered).

use crate::search::Model;

/// (epoch, n): n = 0 is the start of the epoch, its first entry has n = 1.
type Id = (u8, u8);
/// Instead of a message: the stream starts here, nothing is delivered.
const ANCHOR: u8 = 255;
/// Predecessor of the first entry of a stream whose past is unknown.
const UNKNOWN: Id = (255, 255);
/// Gateways: 0 and 1 exist from the start, 2 starts later.
const MEMBERS: usize = 3;
/// Generations are multiples of it; numbers in between are for streams that start.
const STRIDE: u8 = 4;

const fn bit(member: usize) -> u8 {
    1 << member
}

/// Safeguards that can be left out, to show what each of them is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OmittedSafeguard {
    None,
    /// A new member acknowledges before the others have confirmed it.
    NoConfirm,
    /// Listed members count as confirmed after a change of server.
    ListedIsConfirmed,
    /// Confirmation by the members of the current generation suffices, without those of an open border.
    ConfirmByPresentOnly,
    /// A border is proven when all members in Redis's copy of the roster have reported.
    TrustDataset,
    /// A certificate does not end with the lease.
    CertForEver,
    /// A member forgets which members it saw removed.
    ForgetDropped,
    /// A removed member joins again under the same name.
    SameNameAgain,
    /// A drained replica leaves without handing over its claims.
    DrainWithoutClaims,
    /// A generation that is unknown to this dataset is ignored when its member arrives.
    IgnoreSideBranch,
    /// It is not checked whether a generation continued where others had left it.
    OnePrimary,
    /// Branches that did not know each other are judged only by their reports where they meet.
    MeetAsKnown,
    /// An open border is forgotten when the server changes again.
    ForgetOpenBorder,
    /// Earlier verdicts are stored only in Redis.
    VerdictsInRedisOnly,
    /// The publish script compares the generation, not the server's identity.
    NoIdentityFence,
    /// A new generation is the greatest known number plus one.
    PlainCounter,
    /// A stream that starts again uses the current generation's epoch.
    BeginAtGeneration,
    /// A first entry without a known predecessor counts as the first ever.
    UnknownIsFirst,
    /// Only the first step of a replay is checked.
    FirstStepOnly,
    /// A stream that becomes empty loses its last id.
    NoTombstone,
    /// A member acknowledges although its own lease has expired.
    AckAfterLapse,
    /// A replica that finds no stream continues from the start of the generation.
    NoAnchor,
    /// None: also counts what the protocol does not promise (two primaries, and the member that acknowledged on the
    /// abandoned one ends before it returns).
    CountOrphans,
}

impl OmittedSafeguard {
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::NoConfirm,
        Self::ListedIsConfirmed,
        Self::ConfirmByPresentOnly,
        Self::TrustDataset,
        Self::CertForEver,
        Self::ForgetDropped,
        Self::SameNameAgain,
        Self::DrainWithoutClaims,
        Self::IgnoreSideBranch,
        Self::OnePrimary,
        Self::MeetAsKnown,
        Self::ForgetOpenBorder,
        Self::VerdictsInRedisOnly,
        Self::NoIdentityFence,
        Self::PlainCounter,
        Self::BeginAtGeneration,
        Self::UnknownIsFirst,
        Self::FirstStepOnly,
        Self::NoTombstone,
        Self::AckAfterLapse,
        Self::NoAnchor,
        Self::CountOrphans,
    ];

    pub fn named(name: &str) -> Self {
        *Self::ALL.iter().find(|defect| format!("{defect:?}") == name).expect("a defect by that name")
    }
}

/// How many events of each kind may happen in one run.
#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct EventBudget {
    pub publish: u8,
    pub unknown: u8,
    pub server: u8,
    pub empty: u8,
    pub promote: u8,
    pub flip: u8,
    pub replace: u8,
    pub crash: u8,
    pub drain: u8,
    pub start: u8,
    pub lapse: u8,
    pub cut: u8,
    pub del_stream: u8,
    pub del_gen: u8,
    pub xdel: u8,
    pub trim: u8,
    pub leave: u8,
    pub order: u8,
}

pub const NOTHING: EventBudget = EventBudget {
    publish: 0,
    unknown: 0,
    server: 0,
    empty: 0,
    promote: 0,
    flip: 0,
    replace: 0,
    crash: 0,
    drain: 0,
    start: 0,
    lapse: 0,
    cut: 0,
    del_stream: 0,
    del_gen: 0,
    xdel: 0,
    trim: 0,
    leave: 0,
    order: 0,
};

pub struct Epochs {
    pub budget: EventBudget,
    pub clients: usize,
    pub defect: OmittedSafeguard,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct ModelEntry {
    id: Id,
    /// Recorded where an epoch starts.
    prev: Option<Id>,
    message: u8,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct ModelStream {
    entries: Vec<ModelEntry>,
    /// Outlives the entries.
    last: Id,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
enum GenerationStatus {
    Pending,
    Proven,
    Doubt,
}

/// Between the generations before `g` and `g`.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct GenerationBorder {
    g: u8,
    /// Generations, divided by the stride, that end here.
    parents: u32,
    /// Members that may have acknowledged in them, and those that have reported.
    need: u8,
    accounted: u8,
    /// A member certifies that `need` is complete.
    certified: bool,
    status: GenerationStatus,
    /// Ids that were acknowledged or seen, and are lost.
    claims: Vec<Id>,
}

/// The one key of a shard.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct Gen {
    g: u8,
    identity: u8,
    alloc: u8,
    active: u8,
    /// Members that may acknowledge: all required members have confirmed them.
    confirmed: u8,
    /// Left or removed members: everything that they acknowledged precedes this mark.
    marks: u8,
    /// Incarnation of each member: as listed, and as marked.
    listed: [u8; MEMBERS],
    marked: [u8; MEMBERS],
    /// The members that each member has confirmed.
    seen: [u8; MEMBERS],
    chain: Vec<GenerationBorder>,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct Dataset {
    roster: Option<Gen>,
    stream: Option<ModelStream>,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
enum ServerRole {
    Down,
    Primary,
    Copy,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct ModelServer {
    role: ServerRole,
    /// Replication id: changes with a restart, a promotion or another dataset.
    identity: u8,
    data: Dataset,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug, Default)]
struct ModelMember {
    alive: bool,
    at: Option<u8>,
    identity: u8,
    g: u8,
    ready: bool,
    /// No member can have joined without its knowledge.
    cert: bool,
    /// The members that may have acknowledged, as far as it knows.
    view: u8,
    /// Incremented when it joins again after it was removed; and those that it has seen of others.
    incarnation: u8,
    seen: [u8; MEMBERS],
    /// Members that left and whose claims this one took over.
    heirs: u8,
    known: u8,
    /// Number of messages when it attached; the product compares beats.
    fork: u8,
    acked: Option<Id>,
    handed: Option<Id>,
    position: Id,
    live: bool,
    queue: Vec<(ModelEntry, u8)>,
    chain: Vec<GenerationBorder>,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct ModelClient {
    on: Option<u8>,
    cursor: Id,
    log: Vec<(Id, u8)>,
    /// What it had of another branch above the position that it was sent back to: it may come again, and in no order to
    /// what comes now.
    left: Vec<(Id, u8)>,
    gaps: Vec<(Id, Id)>,
}

impl ModelClient {
    fn has(&self, message: usize) -> bool {
        self.log.iter().chain(&self.left).any(|(_, had)| usize::from(*had) == message)
    }
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
struct ModelMessage {
    id: Id,
    acked: bool,
    by: u8,
    /// Two primaries at once, and the member that acknowledged it has had no contact since.
    orphan: bool,
    /// Two primaries when it was given: positions of the other branch may be above it.
    split: bool,
    /// Clients whose position was already above it, and those of them that received a doubt since: no range covers it.
    above: u8,
    told: u8,
}

#[derive(Clone, Hash)]
pub struct ModelState {
    servers: [ModelServer; 2],
    address: usize,
    members: [ModelMember; MEMBERS],
    clients: Vec<ModelClient>,
    messages: Vec<ModelMessage>,
    identities: u8,
    generations: u32,
    /// Something was removed manually; a member that may have acknowledged has ended.
    removed: bool,
    unaccounted: bool,
    /// Two primaries at once: a position may be of a branch that the other has not heard of.
    parted: bool,
    budget: EventBudget,
    bad: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub enum ModelAction {
    /// Stored and acknowledged.
    Publish(usize),
    /// Stored; the response is lost.
    Unknown(usize),
    /// The member reads the server's state, joins the roster and reports what it knows about earlier generations.
    Attach(usize),
    /// The same; a greater number is drawn.
    AttachHigh(usize),
    /// All required members have confirmed it.
    Ready(usize),
    /// Reads the roster and confirms it.
    Beat(usize),
    /// The member was disconnected for a lease; the others continue without it.
    Drop(usize),
    /// The lease of missing members has expired.
    Doubt,
    Compare(usize),
    Take(usize),
    /// Its links are lost, nothing else.
    Cut(usize),
    Crash(usize),
    Drain(usize),
    Start,
    Sync,
    RestartWhole,
    RestartOlder,
    /// The dataset is lost completely.
    RestartEmpty,
    ReplaceInside,
    Promote,
    /// The old primary continues, with or without its links.
    PromoteKeepOld,
    PromoteMoveAll,
    OldReturns,
    FlipAddress,
    DelStream,
    DelGeneration,
    Xdel,
    TrimAll,
    Leave(usize),
    Resume(usize, usize),
}

/// The result of a read.
enum ReadStep {
    Deliver(Id, u8),
    Gap { after: Id, before: Id, kind: LossKind },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LossKind {
    Lost,
    Doubt,
    /// The position belongs to no known branch.
    Foreign,
    Retention,
}

impl Gen {
    fn pending(&self) -> bool {
        self.chain.iter().any(|border| border.status == GenerationStatus::Pending)
    }

    fn open(&self) -> u8 {
        let open = |border: &GenerationBorder| {
            if border.status == GenerationStatus::Pending { border.need & !border.accounted } else { 0 }
        };
        self.chain.iter().map(open).fold(0, |all, open| all | open)
    }

    fn knows(&self, g: u8) -> bool {
        g == self.g || named(&self.chain, g)
    }
}

/// Whether a generation starts or ends at one of these.
fn named(chain: &[GenerationBorder], g: u8) -> bool {
    chain.iter().any(|border| border.g == g || border.parents & (1 << (g / STRIDE)) != 0)
}

impl ModelStream {
    /// Whether the id is here, or was here and was removed by design.
    fn had(&self, id: Id) -> bool {
        match self.entries.iter().find(|entry| entry.id >= id) {
            Some(entry) if entry.id == id => true,
            Some(entry) => entry.prev.is_none_or(|prev| prev >= id),
            None => id <= self.last,
        }
    }
}

impl ModelMember {
    fn see(&mut self, roster: &Gen) {
        for m in 0..MEMBERS {
            self.seen[m] = self.seen[m].max(roster.listed[m]);
        }
    }
}

impl ModelState {
    fn data(&mut self) -> &mut Dataset {
        &mut self.servers[self.address].data
    }

    fn detach_all(&mut self, server: usize) {
        (0..MEMBERS)
            .filter(|m| self.members[*m].at == Some(server as u8))
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|m| self.detach(m));
    }

    fn detach(&mut self, m: usize) {
        let member = &mut self.members[m];
        (member.at, member.ready, member.live) = (None, false, false);
        member.queue.clear();
    }

    fn end(&mut self, m: usize) {
        self.unaccounted = true;
        self.detach(m);
        self.members[m] = ModelMember { view: 0, ..ModelMember::default() };
        self.clients.iter_mut().filter(|c| c.on == Some(m as u8)).for_each(|c| c.on = None);
    }

    fn new_identity(&mut self, server: usize) {
        self.identities += 1;
        self.servers[server].identity = self.identities;
    }

    /// A number above `known` that was never drawn before.
    fn draw(&mut self, known: u8, high: bool, defect: OmittedSafeguard) -> u8 {
        let mut slot = known / STRIDE + 1;
        if defect == OmittedSafeguard::PlainCounter {
            return slot * STRIDE;
        }
        let mut skip = u8::from(high);
        while self.generations & (1 << slot) != 0 || skip > 0 {
            if self.generations & (1 << slot) == 0 {
                skip -= 1;
            }
            slot += 1;
        }
        self.generations |= 1 << slot;
        slot * STRIDE
    }

    fn attach(&mut self, m: usize, high: bool, defect: OmittedSafeguard) {
        let server = self.address;
        let identity = self.servers[server].identity;
        let member = self.members[m].clone();
        let old = self.servers[server].data.roster.clone();
        let side = |roster: &Gen| {
            defect != OmittedSafeguard::IgnoreSideBranch
                && member.g != 0
                && !roster.knows(member.g)
                && !roster.chain.last().is_some_and(|border| border.status == GenerationStatus::Pending)
        };
        let same = old
            .as_ref()
            .is_some_and(|roster| roster.identity == identity && roster.alloc >= member.known && !side(roster));
        // A loss of a generation whose end is decided: it continued alone, below the positions of clients that started
        // since.
        let late = old.as_ref().is_some_and(|roster| {
            let told = |id: &Id| roster.chain.iter().any(|border| border.claims.contains(id));
            let stream = self.servers[server].data.stream.as_ref();
            let gone = |id: &Id| id.1 > 0 && !stream.is_some_and(|stream| stream.had(*id)) && !told(id);
            let lost = [member.acked, member.handed].iter().flatten().any(gone);
            member.g != 0 && member.g < roster.g && roster.knows(member.g) && !roster.pending() && lost
        });
        let late = late && defect != OmittedSafeguard::OnePrimary;
        let same = same && !late;
        let mut roster = if same {
            old.clone().unwrap()
        } else {
            // The dataset cannot have gone back if its identity is the one that this member saw last.
            let intact = match &old {
                Some(roster) => roster.identity == identity,
                None => member.cert && member.identity == identity,
            };
            let known = old.as_ref().map_or(0, |roster| roster.alloc).max(member.known);
            let g = self.draw(known, high, defect);
            let (mut need, mut active, mut confirmed, mut marks, mut chain, mut parents) = (0, 0, 0, 0, Vec::new(), 0);
            if let Some(roster) = &old {
                parents = 1 << (roster.g / STRIDE);
                (marks, chain, confirmed) = (roster.marks, roster.chain.clone(), roster.confirmed);
                let may = if defect == OmittedSafeguard::ListedIsConfirmed {
                    roster.active
                } else {
                    roster.active & roster.confirmed
                };
                if intact {
                    active = roster.active;
                    need = if defect == OmittedSafeguard::ForgetOpenBorder { 0 } else { roster.open() };
                } else {
                    need = may | if defect == OmittedSafeguard::ForgetOpenBorder { 0 } else { roster.open() };
                }
            } else if intact {
                active = member.view;
            }
            if defect == OmittedSafeguard::ForgetOpenBorder {
                for border in &mut chain {
                    if border.status == GenerationStatus::Pending {
                        border.status = GenerationStatus::Proven;
                    }
                }
            }
            chain.push(GenerationBorder {
                g,
                parents,
                need,
                accounted: 0,
                certified: intact,
                status: GenerationStatus::Pending,
                claims: Vec::new(),
            });
            let (listed, marked) =
                old.as_ref().map_or(([0; MEMBERS], [0; MEMBERS]), |roster| (roster.listed, roster.marked));
            Gen { g, identity, alloc: g, active, confirmed, marks, listed, marked, seen: [0; MEMBERS], chain }
        };
        let trusted = if defect == OmittedSafeguard::ListedIsConfirmed { u8::MAX } else { roster.confirmed };
        self.messages.iter_mut().filter(|message| message.by == m as u8).for_each(|message| message.orphan = false);
        let listed = (roster.active | roster.open()) & trusted & bit(m) != 0;
        let stream = self.servers[server].data.stream.clone();
        if member.g != roster.g && member.g != 0 {
            report(&mut roster, m, &member, identity, stream.as_ref(), defect);
        }
        let decided = roster.chain.last().is_none_or(|border| border.status != GenerationStatus::Pending);
        // The generation that ended where this member was continued here.
        let given = self.messages.len() as u8;
        let went_on = |old: &Gen| {
            let ended = |border: &GenerationBorder| border.g > old.g && border.parents & (1 << (old.g / STRIDE)) != 0;
            let since =
                |entry: &ModelEntry| entry.message != ANCHOR && entry.message >= member.fork && entry.id.0 < member.g;
            let more = stream.as_ref().is_some_and(|stream| stream.entries.iter().any(since));
            more && member.g > old.g && !old.knows(member.g) && member.chain.iter().any(ended)
        };
        let two = old.as_ref().is_some_and(went_on) && defect != OmittedSafeguard::OnePrimary;
        self.unaccounted |= two || late;
        let foreign =
            old.as_ref().is_some_and(|old| is_foreign(&member, old)) && defect != OmittedSafeguard::MeetAsKnown;
        if foreign || decided || two || late {
            for border in roster.chain.iter_mut().filter(|border| border.status == GenerationStatus::Pending) {
                border.status = GenerationStatus::Doubt;
            }
        }
        settle(&mut roster, defect);
        let again =
            roster.active & bit(m) == 0 && roster.marks & bit(m) != 0 && defect != OmittedSafeguard::SameNameAgain;
        if roster.active & bit(m) == 0 && defect != OmittedSafeguard::SameNameAgain {
            // Confirmations from before this join do not count for it.
            roster.seen.iter_mut().for_each(|seen| *seen &= !bit(m));
        }
        roster.active |= bit(m);
        roster.marks &= !bit(m);
        roster.seen[m] = roster.active | roster.open();
        let now = &mut self.members[m];
        now.incarnation += u8::from(again);
        roster.listed[m] = now.incarnation;
        now.see(&roster);
        now.at = Some(server as u8);
        (now.identity, now.g) = (identity, roster.g);
        now.ready = listed || defect == OmittedSafeguard::NoConfirm;
        now.cert = true;
        now.view = if defect == OmittedSafeguard::ForgetDropped { 0 } else { now.view } | roster.active | roster.open();
        now.known = now.known.max(roster.alloc);
        (now.live, now.queue, now.fork) = (false, Vec::new(), given);
        now.chain = roster.chain.clone();
        self.servers[server].data.roster = Some(roster);
    }

    fn publish(&mut self, m: usize, acked: bool, defect: OmittedSafeguard) {
        let server = self.members[m].at.unwrap() as usize;
        let identity = self.servers[server].identity;
        let data = &mut self.servers[server].data;
        let fits = match &data.roster {
            Some(roster) => {
                roster.g == self.members[m].g
                    && (roster.identity == identity || defect == OmittedSafeguard::NoIdentityFence)
            }
            None => false,
        };
        if !fits {
            // STALE: nothing is stored; the publisher attaches again.
            self.detach(m);
            return;
        }
        let roster = data.roster.as_mut().unwrap();
        let (g, message) = (roster.g, self.messages.len() as u8);
        let (id, prev) = match &data.stream {
            None => {
                let epoch = if defect == OmittedSafeguard::BeginAtGeneration {
                    roster.g
                } else {
                    roster.alloc += 1;
                    roster.alloc
                };
                ((epoch, 1), Some(UNKNOWN))
            }
            Some(stream) if stream.last.0 > roster.alloc => {
                // The stream knows more than the key: its number is reported at the next attach.
                let known = stream.last.0;
                self.members[m].known = known;
                self.detach(m);
                return;
            }
            Some(stream) if stream.last.0 < roster.g => ((roster.g, 1), Some(stream.last)),
            Some(stream) => ((stream.last.0, stream.last.1 + 1), None),
        };
        let entry = ModelEntry { id, prev, message };
        let stream = data.stream.get_or_insert(ModelStream { entries: Vec::new(), last: id });
        stream.entries.push(entry.clone());
        stream.last = id;
        let split = self.servers.iter().all(|server| server.role == ServerRole::Primary);
        let above = self.clients.iter().enumerate().filter(|(_, client)| client.cursor > id);
        let above = above.fold(0, |all, (c, _)| all | bit(c));
        self.messages.push(ModelMessage { id, acked, by: m as u8, orphan: split, split, above, told: 0 });
        for other in 0..MEMBERS {
            let follower = &mut self.members[other];
            if follower.alive && follower.at == Some(server as u8) {
                follower.queue.push((entry.clone(), g));
            }
        }
        let member = &mut self.members[m];
        member.known = member.known.max(id.0);
        if acked {
            member.acked = member.acked.max(Some(id));
        } else {
            self.detach(m);
        }
    }

    /// Reads after `at`: what a subscriber with that position receives, and its position afterwards.
    fn read(&self, roster: &Gen, at: Id, defect: OmittedSafeguard) -> (Vec<ReadStep>, Id) {
        let stream = self.servers[self.address].data.stream.as_ref();
        let (mut at, mut steps, mut first) = (at, Vec::new(), true);
        let Some(stream) = stream else {
            let end = (roster.alloc + 1, 0);
            steps.push(ReadStep::Gap { after: at, before: end, kind: LossKind::Retention });
            return (steps, at.max((roster.g, 0)));
        };
        let begin = at;
        for entry in stream.entries.iter().filter(|entry| entry.id > begin) {
            let checked = first || defect != OmittedSafeguard::FirstStepOnly;
            let gap = if checked { hole(roster, at, entry, defect) } else { None };
            let gap = gap.or_else(|| crossed(roster, at, entry.id));
            if let Some(kind) = gap {
                steps.push(ReadStep::Gap { after: at, before: entry.id, kind });
            }
            steps.push(ReadStep::Deliver(entry.id, entry.message));
            (at, first) = (entry.id, false);
        }
        let end = (roster.g, 0);
        if at < stream.last {
            // Everything after the position was trimmed.
            steps.push(ReadStep::Gap {
                after: at,
                before: (stream.last.0, stream.last.1 + 1),
                kind: LossKind::Retention,
            });
            at = stream.last;
        }
        if at < end {
            let foreign = at > stream.last && !on_branch(roster, at, stream.last);
            if let Some(kind) = crossed(roster, at, end).or(foreign.then_some(LossKind::Foreign)) {
                steps.push(ReadStep::Gap { after: at, before: end, kind });
            }
            at = end;
        }
        (steps, at)
    }

    fn give(&mut self, c: usize, steps: &[ReadStep], at: Id) {
        for step in steps {
            match *step {
                ReadStep::Deliver(id, message) => {
                    let client = &mut self.clients[c];
                    if client.left.iter().any(|(had, other)| *had == id && *other != message) {
                        self.bad = Some("two contents for one id");
                    } else if let Some((_, had)) = client.log.iter().find(|(had, _)| *had == id) {
                        self.bad = Some(if *had == message { "delivered twice" } else { "two contents for one id" });
                    } else if client.log.last().is_some_and(|(last, _)| *last > id) {
                        self.bad = Some("ids go down");
                    }
                    client.log.push((id, message));
                }
                ReadStep::Gap { after, before, kind } => self.judge_gap(c, after, before, kind),
            }
        }
        let client = &mut self.clients[c];
        client.cursor = client.cursor.max(at);
    }

    fn judge_gap(&mut self, c: usize, after: Id, before: Id, kind: LossKind) {
        let client = &mut self.clients[c];
        let between = |id: Id| after < id && id < before;
        let had = client.log.iter().any(|(id, _)| between(*id));
        let has = |number: usize| client.has(number);
        let missed = self.messages.iter().enumerate().any(|(number, message)| between(message.id) && !has(number));
        let excused = match kind {
            LossKind::Doubt => true,
            LossKind::Foreign => self.unaccounted,
            LossKind::Retention => self.removed,
            LossKind::Lost => false,
        };
        if had {
            self.bad = Some("a gap names what the client has");
        } else if !missed && !excused {
            self.bad = Some("a gap where nothing is missing");
        }
        if kind == LossKind::Doubt {
            for message in &mut self.messages {
                let below = message.above & bit(c) != 0 || message.split && message.id < after;
                message.told |= if below { bit(c) } else { 0 };
            }
        }
        client.gaps.push((after, before));
        client.gaps.sort_unstable();
        client.gaps.dedup();
    }

    /// Where a reader goes on whose position nobody can have been given here: it comes from another branch.
    fn goes_back(&self, roster: &Gen, at: Id) -> Option<Id> {
        let last = self.servers[self.address].data.stream.as_ref()?.last;
        (at > last && at > (roster.g, 0)).then_some(last.max((roster.g, 0)))
    }

    /// The client is told a gap without an end, and goes on from a lower position.
    fn send_back(&mut self, c: usize, to: Id) {
        if !self.parted && !self.removed {
            self.bad = Some("sent back although there was one branch");
        }
        let client = &mut self.clients[c];
        let (log, left) = client.log.iter().partition(|(id, _)| *id <= to);
        client.log = log;
        client.left.extend::<Vec<_>>(left);
        client.left.sort_unstable();
        client.left.dedup();
        client.cursor = to;
    }

    fn deliver(&mut self, m: usize, steps: &[ReadStep], at: Id, defect: OmittedSafeguard) {
        let before = self.members[m].position;
        let on: Vec<_> = (0..self.clients.len()).filter(|c| self.clients[*c].on == Some(m as u8)).collect();
        for c in on {
            let cursor = self.clients[c].cursor;
            if cursor == before {
                self.give(c, steps, at);
            } else if let Some(roster) = self.servers[self.address].data.roster.clone() {
                // It is not where the gateway is: it reads on from its own position.
                let (steps, at) = self.read(&roster, cursor, defect);
                self.give(c, &steps, at);
            }
        }
        let member = &mut self.members[m];
        member.position = at;
        member.known = member.known.max(at.0);
    }

    fn compare(&mut self, m: usize, defect: OmittedSafeguard) {
        let at = self.members[m].position;
        if let (None, true) = (&self.data().stream, defect != OmittedSafeguard::NoAnchor) {
            // A unique position: what was removed precedes it.
            let roster = self.data().roster.as_mut().unwrap();
            roster.alloc += 1;
            let (id, g) = ((roster.alloc, 0), roster.g);
            let entry = ModelEntry { id, prev: Some(UNKNOWN), message: ANCHOR };
            self.data().stream = Some(ModelStream { entries: Vec::new(), last: id });
            for other in (0..MEMBERS).filter(|other| *other != m) {
                let follower = &mut self.members[other];
                if follower.alive && follower.at == Some(self.address as u8) {
                    follower.queue.push((entry.clone(), g));
                }
            }
            self.deliver(m, &[ReadStep::Gap { after: at, before: id, kind: LossKind::Retention }], id, defect);
        }
        let roster = self.servers[self.address].data.roster.clone().unwrap();
        let (steps, at) = self.read(&roster, self.members[m].position, defect);
        self.deliver(m, &steps, at, defect);
        let member = &mut self.members[m];
        member.live = true;
        member.queue.retain(|(entry, _)| entry.id > at);
        member.chain = roster.chain;
    }

    fn take(&mut self, m: usize, defect: OmittedSafeguard) {
        let (entry, g) = self.members[m].queue.remove(0);
        let member = &self.members[m];
        let at = member.position;
        if entry.id <= at {
            return;
        }
        let follows = entry.id == (at.0, at.1 + 1) || entry.prev == Some(at);
        // The link has not been interrupted since the position was the head: nothing can lie between.
        let unbroken = entry.prev == Some(UNKNOWN) && g == member.g;
        if follows && g == member.g || unbroken {
            let steps = if entry.message == ANCHOR { vec![] } else { vec![ReadStep::Deliver(entry.id, entry.message)] };
            self.deliver(m, &steps, entry.id, defect);
        } else {
            self.members[m].live = false;
        }
    }

    /// Every living member is attached, and nothing is in flight.
    fn quiet(&self) -> bool {
        let server = &self.servers[self.address];
        let Some(roster) = &server.data.roster else { return false };
        let here = |member: &ModelMember| {
            !member.alive
                || member.at == Some(self.address as u8)
                    && member.g == roster.g
                    && member.identity == server.identity
                    && member.live
                    && member.queue.is_empty()
        };
        server.role == ServerRole::Primary
            && roster.identity == server.identity
            && !roster.pending()
            && self.members.iter().all(here)
    }
}

/// Whether a member comes from a branch unknown to this one, and ids given by one of them may be below positions of
/// readers of the other: no claim covers them.
fn is_foreign(member: &ModelMember, old: &Gen) -> bool {
    if member.g == 0 || old.knows(member.g) {
        return false;
    }
    let mine = |g: u8| g == member.g || named(&member.chain, g);
    let given_there = old.chain.iter().map(|border| border.g).chain([old.g]);
    let mut below_mine = given_there.filter(|g| *g < member.g && !mine(*g));
    // Readers wait before the first boundary without a verdict.
    let open = old.chain.iter().position(|border| border.status == GenerationStatus::Pending);
    let reached = open.map_or(old.g, |at| {
        let ends = (1..32).rev().find(|slot| old.chain[at].parents & (1 << slot) != 0).unwrap_or(0) as u8 * STRIDE;
        ends.max(if at > 0 { old.chain[at - 1].g } else { 0 })
    });
    let given_here = member.chain.iter().map(|border| border.g).chain([member.g]);
    let mut below_theirs = given_here.filter(|g| *g < reached && !old.knows(*g));
    below_mine.next().or(below_theirs.next()).is_some()
}

/// Reports what a member knows about earlier generations.
fn report(
    roster: &mut Gen,
    m: usize,
    member: &ModelMember,
    identity: u8,
    stream: Option<&ModelStream>,
    defect: OmittedSafeguard,
) {
    if defect != OmittedSafeguard::VerdictsInRedisOnly {
        for border in &member.chain {
            if border.g < roster.g && !roster.chain.iter().any(|known| known.g == border.g) {
                roster.chain.push(border.clone());
            } else if let Some(known) = roster.chain.iter_mut().find(|known| known.g == border.g) {
                for claim in &border.claims {
                    if !known.claims.contains(claim) {
                        known.claims.push(*claim);
                    }
                }
                if known.status == GenerationStatus::Pending && border.status == GenerationStatus::Doubt {
                    known.status = GenerationStatus::Doubt;
                }
            }
        }
        roster.chain.sort_by_key(|border| border.g);
    }
    let inherited = roster.open();
    // A mark says nothing about a later incarnation.
    let valid = (0..MEMBERS).filter(|m| roster.marked[*m] >= member.seen[*m]).fold(0, |all, m| all | bit(m));
    let marks = roster.marks & valid;
    let Some(border) = roster.chain.last_mut() else { return };
    if border.status != GenerationStatus::Pending {
        return;
    }
    border.parents |= 1 << (member.g / STRIDE);
    let rolled_back = member.identity != identity;
    if defect != OmittedSafeguard::TrustDataset && rolled_back {
        border.need |= member.view;
        border.certified |= member.cert;
    }
    border.need |= inherited;
    border.certified |= defect == OmittedSafeguard::TrustDataset;
    border.accounted |= bit(m) | member.heirs | (marks & !bit(m));
    let claims = [member.acked, member.handed];
    for id in claims.into_iter().flatten() {
        if id.1 > 0 && !stream.is_some_and(|stream| stream.had(id)) && !border.claims.contains(&id) {
            border.claims.push(id);
            border.claims.sort_unstable();
        }
    }
}

/// Decides a border if all members have reported and one certifies that the list is complete.
fn settle(roster: &mut Gen, _: OmittedSafeguard) {
    let Some(last) = roster.chain.last() else { return };
    if last.status == GenerationStatus::Pending && last.certified && roster.open() & !last.accounted == 0 {
        for border in roster.chain.iter_mut().filter(|border| border.status == GenerationStatus::Pending) {
            border.status = GenerationStatus::Proven;
        }
    }
}

/// The generation of an id in this branch.
fn generation_of(roster: &Gen, id: Id) -> u8 {
    roster.chain.iter().map(|border| border.g).filter(|g| *g <= id.0).max().unwrap_or(0)
}

/// What the borders between two positions mean for a reader at the first.
fn crossed(roster: &Gen, at: Id, to: Id) -> Option<LossKind> {
    let (from, until) = (generation_of(roster, at), generation_of(roster, to).max(if to.1 == 0 { to.0 } else { 0 }));
    let mut kind = None;
    for border in &roster.chain {
        // A lost id is missing for every reader that passes it, whichever border recorded it.
        if border.claims.iter().any(|claim| at < *claim && *claim < to) {
            kind = kind.or(Some(LossKind::Lost));
        }
        if border.g > from && border.g <= until && border.status == GenerationStatus::Doubt {
            kind = Some(LossKind::Doubt);
        }
    }
    kind
}

/// Whether a position ahead of `last` belongs to this branch: then the server went back, and the client is right.
fn on_branch(roster: &Gen, at: Id, last: Id) -> bool {
    at.0 == last.0
        || at.1 == 0
        || roster.chain.iter().any(|border| border.claims.iter().any(|claim| claim.0 == at.0 && *claim >= at))
}

/// What is missing between a position and the next existing entry.
fn hole(roster: &Gen, at: Id, entry: &ModelEntry, defect: OmittedSafeguard) -> Option<LossKind> {
    match entry.prev {
        _ if entry.id == (at.0, at.1 + 1) => None,
        Some(prev) if prev == at => None,
        Some(UNKNOWN) if defect == OmittedSafeguard::UnknownIsFirst => None,
        Some(UNKNOWN) | None => Some(LossKind::Retention),
        Some(prev) if prev > at => Some(LossKind::Retention),
        Some(prev) => (!on_branch(roster, at, prev)).then_some(LossKind::Foreign),
    }
}

impl Model for Epochs {
    type State = ModelState;
    type Action = ModelAction;

    fn initial(&self) -> ModelState {
        let active = bit(0) | bit(1);
        // One number below is free: a newcomer without knowledge may draw it.
        let g = 2 * STRIDE;
        let roster = Gen {
            g,
            identity: 1,
            alloc: g,
            active,
            confirmed: active,
            marks: 0,
            listed: [0; MEMBERS],
            marked: [0; MEMBERS],
            seen: [active; MEMBERS],
            chain: Vec::new(),
        };
        let data = Dataset { roster: Some(roster), stream: Some(ModelStream { entries: Vec::new(), last: (g, 0) }) };
        let member = ModelMember {
            alive: true,
            at: Some(0),
            identity: 1,
            g,
            ready: true,
            cert: true,
            view: active,
            known: g,
            position: (g, 0),
            live: true,
            ..ModelMember::default()
        };
        let mut members: [ModelMember; MEMBERS] = Default::default();
        members[0] = member.clone();
        members[1] = member;
        let client =
            |on| ModelClient { on: Some(on), cursor: (g, 0), log: Vec::new(), left: Vec::new(), gaps: Vec::new() };
        ModelState {
            servers: [
                ModelServer { role: ServerRole::Primary, identity: 1, data: data.clone() },
                ModelServer { role: ServerRole::Copy, identity: 1, data },
            ],
            address: 0,
            members,
            clients: (0..self.clients).map(|c| client(c as u8)).collect(),
            messages: Vec::new(),
            identities: 1,
            generations: 0b101,
            removed: false,
            unaccounted: false,
            parted: false,
            budget: self.budget,
            bad: None,
        }
    }

    #[allow(clippy::too_many_lines)]
    fn next(&self, state: &ModelState, out: &mut Vec<(ModelAction, ModelState)>) {
        let defect = self.defect;
        let mut add = |action: ModelAction, change: &dyn Fn(&mut ModelState)| {
            let mut after = state.clone();
            change(&mut after);
            out.push((action, after));
        };
        let address = state.address;
        let up = state.servers[address].role == ServerRole::Primary;
        let identity = state.servers[address].identity;
        let roster = state.servers[address].data.roster.as_ref();
        let copy = state.servers[1 - address].role == ServerRole::Copy;
        let budget = &state.budget;
        for m in 0..MEMBERS {
            let member = &state.members[m];
            if !member.alive {
                continue;
            }
            let here = member.at == Some(address as u8);
            let current = here && roster.is_some_and(|roster| roster.g == member.g && roster.identity == identity);
            let primary = member.at.is_some_and(|s| state.servers[s as usize].role == ServerRole::Primary);
            if member.ready && primary && budget.publish > 0 {
                add(ModelAction::Publish(m), &|s| {
                    s.budget.publish -= 1;
                    s.publish(m, true, defect);
                });
                if budget.unknown > 0 {
                    add(ModelAction::Unknown(m), &|s| {
                        s.budget.publish -= 1;
                        s.budget.unknown -= 1;
                        s.publish(m, false, defect);
                    });
                }
            }
            // A link that leads elsewhere, or that finds another generation, reconnects.
            if up && !current && (member.at.is_none() || here) {
                add(ModelAction::Attach(m), &|s| s.attach(m, false, defect));
                if budget.order > 0 {
                    add(ModelAction::AttachHigh(m), &|s| {
                        s.budget.order -= 1;
                        s.attach(m, true, defect);
                    });
                }
            }
            if current {
                let roster = roster.unwrap();
                let all = roster.active | roster.open();
                if roster.seen[m] != all || member.view & all != all || chain_differs(member, roster) {
                    add(ModelAction::Beat(m), &|s| {
                        let (mine, data) = (&mut s.members[m], &mut s.servers[address].data);
                        let roster = data.roster.as_mut().unwrap();
                        roster.seen[m] = roster.active | roster.open();
                        let kept = if defect == OmittedSafeguard::ForgetDropped { 0 } else { mine.view };
                        mine.view = kept | roster.active | roster.open();
                        mine.known = mine.known.max(roster.alloc);
                        mine.see(roster);
                        mine.chain = roster.chain.clone();
                    });
                }
                if !member.ready {
                    let wait = match defect {
                        OmittedSafeguard::ConfirmByPresentOnly => roster.active,
                        _ => roster.active | roster.open(),
                    };
                    let confirmed = |w: usize| w == m || wait & bit(w) == 0 || roster.seen[w] & bit(m) != 0;
                    if (0..MEMBERS).all(confirmed) {
                        add(ModelAction::Ready(m), &|s| {
                            s.members[m].ready = true;
                            s.data().roster.as_mut().unwrap().confirmed |= bit(m);
                        });
                    }
                }
                if !member.live && !roster.pending() {
                    add(ModelAction::Compare(m), &|s| s.compare(m, defect));
                }
                if budget.drain > 0 && member.ready {
                    add(ModelAction::Drain(m), &|s| {
                        s.budget.drain -= 1;
                        let leaving = s.members[m].clone();
                        for other in (0..MEMBERS).filter(|other| *other != m) {
                            let heir = &mut s.members[other];
                            if heir.alive && heir.at == leaving.at && heir.g == leaving.g {
                                if defect != OmittedSafeguard::DrainWithoutClaims {
                                    heir.handed = heir.handed.max(leaving.acked).max(leaving.handed);
                                }
                                heir.heirs |= bit(m) | leaving.heirs;
                            }
                        }
                        let roster = s.data().roster.as_mut().unwrap();
                        roster.active &= !bit(m);
                        roster.confirmed &= !bit(m);
                        roster.marks |= bit(m);
                        roster.marked[m] = roster.listed[m];
                        s.end(m);
                    });
                }
            }
            if member.live && !member.queue.is_empty() {
                add(ModelAction::Take(m), &|s| s.take(m, defect));
            }
            if budget.cut > 0 && here {
                add(ModelAction::Cut(m), &|s| {
                    s.budget.cut -= 1;
                    s.detach(m);
                });
            }
            if budget.crash > 0 {
                add(ModelAction::Crash(m), &|s| {
                    s.budget.crash -= 1;
                    s.end(m);
                });
            }
        }
        if let Some(roster) = roster.filter(|roster| up && roster.identity == identity) {
            for m in 0..MEMBERS {
                let member = &state.members[m];
                let listed = (roster.active | roster.open()) & bit(m) != 0;
                let watched = (0..MEMBERS).any(|w| w != m && state.members[w].at == Some(address as u8));
                let away = !member.alive || budget.lapse > 0;
                // For an open border, only the verdict decides.
                if roster.active & bit(m) != 0 && listed && watched && away {
                    add(ModelAction::Drop(m), &|s| {
                        let roster = s.data().roster.as_mut().unwrap();
                        roster.active &= !bit(m);
                        roster.confirmed &= !bit(m);
                        if roster.open() & bit(m) == 0 {
                            roster.marks |= bit(m);
                            roster.marked[m] = roster.listed[m];
                        }
                        s.unaccounted = true;
                        let member = &mut s.members[m];
                        if member.alive {
                            s.budget.lapse -= 1;
                            member.cert &= defect == OmittedSafeguard::CertForEver;
                            if member.at == Some(address as u8) && defect != OmittedSafeguard::AckAfterLapse {
                                s.detach(m);
                            }
                        }
                    });
                }
            }
            let coming = |m: usize| {
                let member = &state.members[m];
                member.alive
                    && (member.at != Some(address as u8) || member.g != roster.g || member.identity != identity)
            };
            let watched = (0..MEMBERS).any(|w| state.members[w].alive && state.members[w].at == Some(address as u8));
            let late = (0..MEMBERS).any(coming);
            if roster.pending() && watched && (!late || budget.lapse > 0) {
                add(ModelAction::Doubt, &|s| {
                    if late {
                        s.budget.lapse -= 1;
                        s.unaccounted = true;
                    }
                    let gone: Vec<usize> = (0..MEMBERS).filter(|m| s.members[*m].alive && coming(*m)).collect();
                    for m in gone {
                        s.members[m].cert &= defect == OmittedSafeguard::CertForEver;
                    }
                    let began = |m: usize| m < 2;
                    let dead = (0..MEMBERS).any(|m| !s.members[m].alive && began(m)) || late;
                    let started = s.budget.start < self.budget.start;
                    // Later boundaries do not need the missing members again.
                    let seen = (0..MEMBERS).map(|m| s.members.iter().map(|own| own.seen[m]).max().unwrap_or(0));
                    let seen: Vec<u8> = seen.collect();
                    let roster = s.data().roster.as_mut().unwrap();
                    let missing = roster.open() & !roster.active;
                    for m in (0..MEMBERS).filter(|m| missing & bit(*m) != 0) {
                        roster.marks |= bit(m);
                        roster.confirmed &= !bit(m);
                        roster.marked[m] = roster.listed[m].max(seen[m]);
                    }
                    for border in roster.chain.iter_mut().filter(|border| border.status == GenerationStatus::Pending) {
                        border.status = GenerationStatus::Doubt;
                    }
                    if !dead && !started {
                        s.bad = Some("in doubt although no member is missing");
                    }
                });
            }
        }
        if budget.start > 0 && !state.members[2].alive {
            add(ModelAction::Start, &|s| {
                s.budget.start -= 1;
                s.members[2] = ModelMember { alive: true, ..ModelMember::default() };
            });
        }
        self.servers(state, up, copy, &mut add);
        self.clients(state, roster, identity, &mut add);
    }

    fn violation(&self, state: &ModelState) -> Option<&'static str> {
        if state.bad.is_some() {
            return state.bad;
        }
        if !state.quiet() {
            return None;
        }
        for (c, client) in state.clients.iter().enumerate().filter(|(_, client)| client.on.is_some()) {
            for (number, message) in state.messages.iter().enumerate() {
                let in_range = |(after, before): &(Id, Id)| *after < message.id && message.id < *before;
                let covered = message.told & bit(c) != 0 || client.gaps.iter().any(in_range);
                let has = client.has(number);
                if message.acked
                    && !has
                    && !covered
                    && !(message.orphan && self.defect != OmittedSafeguard::CountOrphans)
                {
                    return Some("acknowledged, neither delivered nor reported");
                }
            }
        }
        None
    }

    fn describe(&self, state: &ModelState) -> String {
        let server = |(n, server): (usize, &ModelServer)| {
            let stream = server.data.stream.as_ref().map_or("none".into(), |stream| {
                let entries = stream.entries.iter().map(|entry| {
                    let prev = match entry.prev {
                        None => String::new(),
                        Some(UNKNOWN) => "<?".into(),
                        Some(prev) => format!("<{}.{}", prev.0, prev.1),
                    };
                    format!("{}.{}{prev}=m{}", entry.id.0, entry.id.1, entry.message)
                });
                entries.collect::<Vec<_>>().join(" ") + &format!(" |{}.{}", stream.last.0, stream.last.1)
            });
            let roster = server.data.roster.as_ref().map_or("no generation".into(), |roster| {
                let borders = roster.chain.iter().map(|border| {
                    format!(
                        "{}:{:?} need {:b} have {:b} cert {} claims {:?}",
                        border.g, border.status, border.need, border.accounted, border.certified, border.claims
                    )
                });
                let borders = borders.collect::<Vec<_>>().join("; ");
                format!(
                    "g{} id{} active {:b} marks {:b} [{borders}]",
                    roster.g, roster.identity, roster.active, roster.marks
                )
            });
            let address = if n == state.address { "*" } else { "" };
            format!("S{n}{address} {:?} id{} {roster} {{{stream}}}", server.role, server.identity)
        };
        let member = |(m, member): (usize, &ModelMember)| {
            if !member.alive {
                return format!("{m}:-");
            }
            let at = member.at.map_or("-".into(), |at| format!("S{at}"));
            let (ready, cert) = (if member.ready { "ready" } else { "" }, if member.cert { "cert" } else { "" });
            format!("{m}:{at} g{} {ready} {cert} pos {}.{}", member.g, member.position.0, member.position.1)
        };
        let client = |(c, client): (usize, &ModelClient)| {
            format!(
                "C{c}@{:?} {:?} gaps {:?}",
                client.on,
                client.log.iter().map(|l| l.1).collect::<Vec<_>>(),
                client.gaps
            )
        };
        let parts: Vec<String> = state
            .servers
            .iter()
            .enumerate()
            .map(server)
            .chain(state.members.iter().enumerate().map(member))
            .chain(state.clients.iter().enumerate().map(client))
            .collect();
        parts.join("\n            ")
    }
}

fn chain_differs(member: &ModelMember, roster: &Gen) -> bool {
    member.chain != roster.chain
}

impl Epochs {
    fn servers(
        &self,
        state: &ModelState,
        up: bool,
        copy: bool,
        add: &mut dyn FnMut(ModelAction, &dyn Fn(&mut ModelState)),
    ) {
        let (address, other, budget) = (state.address, 1 - state.address, &state.budget);
        let differs = || state.servers[0].data != state.servers[1].data;
        if up && copy && differs() {
            add(ModelAction::Sync, &|s| s.servers[other].data = s.servers[address].data.clone());
        }
        if up && budget.server > 0 {
            add(ModelAction::RestartWhole, &|s| {
                s.budget.server -= 1;
                s.new_identity(address);
                s.detach_all(address);
            });
            if copy && differs() {
                add(ModelAction::RestartOlder, &|s| {
                    s.budget.server -= 1;
                    s.servers[address].data = s.servers[other].data.clone();
                    s.new_identity(address);
                    s.detach_all(address);
                });
            }
        }
        if up && budget.empty > 0 {
            add(ModelAction::RestartEmpty, &|s| {
                s.budget.empty -= 1;
                s.removed = true;
                s.servers[address].data = Dataset { roster: None, stream: None };
                s.new_identity(address);
                s.detach_all(address);
            });
        }
        if up && copy && budget.replace > 0 && differs() {
            add(ModelAction::ReplaceInside, &|s| {
                s.budget.replace -= 1;
                s.servers[address].data = s.servers[other].data.clone();
                s.new_identity(address);
            });
        }
        if copy && budget.promote > 0 {
            for (action, keep, links) in [
                (ModelAction::Promote, false, false),
                (ModelAction::PromoteKeepOld, true, true),
                (ModelAction::PromoteMoveAll, true, false),
            ] {
                add(action, &|s| {
                    s.budget.promote -= 1;
                    s.servers[other].role = ServerRole::Primary;
                    s.new_identity(other);
                    s.address = other;
                    if !keep {
                        s.servers[address].role = ServerRole::Down;
                    }
                    s.parted |= keep;
                    if !links {
                        s.detach_all(address);
                    }
                });
            }
        }
        if up && state.servers[other].role != ServerRole::Copy {
            add(ModelAction::OldReturns, &|s| {
                s.detach_all(other);
                let data = s.servers[address].data.clone();
                let identity = s.servers[address].identity;
                s.servers[other] = ModelServer { role: ServerRole::Copy, identity, data };
            });
        }
        if budget.flip > 0 && state.servers[other].role == ServerRole::Primary {
            add(ModelAction::FlipAddress, &|s| {
                s.budget.flip -= 1;
                s.address = other;
                s.detach_all(address);
            });
        }
        let data = &state.servers[address].data;
        if budget.del_stream > 0 && data.stream.is_some() && up {
            add(ModelAction::DelStream, &|s| {
                s.budget.del_stream -= 1;
                s.removed = true;
                s.data().stream = None;
            });
        }
        if budget.del_gen > 0 && data.roster.is_some() && up {
            add(ModelAction::DelGeneration, &|s| {
                s.budget.del_gen -= 1;
                s.data().roster = None;
            });
        }
        let entries = data.stream.as_ref().map_or(0, |stream| stream.entries.len());
        if budget.xdel > 0 && entries > 1 && up {
            add(ModelAction::Xdel, &|s| {
                s.budget.xdel -= 1;
                s.removed = true;
                s.data().stream.as_mut().unwrap().entries.remove(entries - 2);
            });
        }
        if budget.trim > 0 && entries > 0 && up {
            add(ModelAction::TrimAll, &|s| {
                s.budget.trim -= 1;
                if self.defect == OmittedSafeguard::NoTombstone {
                    s.data().stream = None;
                } else {
                    s.data().stream.as_mut().unwrap().entries.clear();
                }
            });
        }
    }

    fn clients(
        &self,
        state: &ModelState,
        roster: Option<&Gen>,
        identity: u8,
        add: &mut dyn FnMut(ModelAction, &dyn Fn(&mut ModelState)),
    ) {
        for (c, client) in state.clients.iter().enumerate() {
            if client.on.is_some() && state.budget.leave > 0 {
                add(ModelAction::Leave(c), &|s| {
                    s.budget.leave -= 1;
                    s.clients[c].on = None;
                });
            }
            if client.on.is_some() {
                continue;
            }
            for m in 0..MEMBERS {
                let member = &state.members[m];
                let current = roster
                    .is_some_and(|roster| roster.g == member.g && roster.identity == identity && !roster.pending());
                let here = member.alive && member.at == Some(state.address as u8) && member.live && current;
                if here && member.queue.is_empty() {
                    add(ModelAction::Resume(c, m), &|s| {
                        let roster = s.data().roster.clone().unwrap();
                        if let Some(to) = s.goes_back(&roster, s.clients[c].cursor) {
                            s.send_back(c, to);
                        }
                        let position = s.members[m].position;
                        let (cursor, before) = (s.clients[c].cursor, (position.0, position.1 + 1));
                        let (steps, at) = if cursor == position {
                            (Vec::new(), position)
                        } else if s.data().stream.is_none() && self.defect != OmittedSafeguard::NoAnchor {
                            (vec![ReadStep::Gap { after: cursor, before, kind: LossKind::Retention }], position)
                        } else {
                            s.read(&roster, s.clients[c].cursor, self.defect)
                        };
                        s.give(c, &steps, at);
                        s.clients[c].on = Some(m as u8);
                    });
                }
            }
        }
    }
}
