//! One server: bytes in, bytes out, and the faults applied from outside.

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::BTreeSet,
    rc::Rc,
};

use crate::{
    ClientId, ModelConnection, ReplicationRole, RespReply, ScriptEngine, ServerIdentity, WriteHistory, WrittenEffect,
    commands::{self, CommandSpec, integer},
    core::{CommandCaller, CommandResult, Core},
    read_command, script,
};

/// What a server refuses now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Out of memory (`maxmemory` with `noeviction`).
    pub full: bool,
    /// Its last dump failed.
    pub disk: bool,
    /// Fewer replicas than `min-replicas-to-write`.
    pub no_replicas: bool,
    /// Commands, in lower case, that only an administrator may run.
    pub denied: BTreeSet<String>,
}

/// A Redis server.
#[derive(Debug)]
pub struct RedisModel {
    core: Rc<RefCell<Core>>,
    engine: ScriptEngine,
    last_client: ClientId,
}

impl RedisModel {
    /// An empty primary. The engine may serve many servers.
    #[must_use]
    pub fn new(identity: ServerIdentity, engine: ScriptEngine) -> Self {
        Self { core: Rc::new(RefCell::new(Core::new(identity))), engine, last_client: 0 }
    }

    fn core(&self) -> Ref<'_, Core> {
        self.core.borrow()
    }

    fn change(&mut self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    /// Microseconds since 1970, by this server's clock.
    pub fn set_time(&mut self, now_us: u64) {
        self.change().now_us = now_us;
    }

    /// Entries per node of a stream: approximate trimming removes whole nodes.
    pub fn set_node_entries(&mut self, count: usize) {
        self.change().node_entries = count;
    }

    /// What it refuses from now on.
    pub fn refuse(&mut self, refusals: Refusals) {
        self.change().refusals = refusals;
    }

    /// How many replicas confirm a write (`WAIT`).
    pub fn set_replicas(&mut self, count: usize) {
        self.change().replicas = count;
    }

    /// Opens a connection.
    pub fn connect(&mut self) -> ClientId {
        self.last_client += 1;
        let client = self.last_client;
        self.change().clients.insert(client, ModelConnection::default());
        client
    }

    /// Closes a connection, from either side.
    pub fn disconnect(&mut self, client: ClientId) {
        self.change().clients.remove(&client);
    }

    /// Whether the connection is open.
    #[must_use]
    pub fn is_connected(&self, client: ClientId) -> bool {
        self.core().clients.contains_key(&client)
    }

    /// Runs the complete commands in the buffer, and removes them. Replies go to the client's own buffer.
    pub fn receive(&mut self, client: ClientId, bytes: &mut Vec<u8>) {
        let mut at = 0;
        while let Some((words, len)) = read_command(&bytes[at..]) {
            at += len;
            self.execute(client, &words);
        }
        bytes.drain(..at);
    }

    /// The replies and pushes for a client since the last call, and whether the server closes the connection after
    /// them.
    pub fn take_output(&mut self, client: ClientId) -> (Vec<u8>, bool) {
        match self.change().clients.get_mut(&client) {
            Some(client) => (std::mem::take(&mut client.out), client.closing),
            None => (Vec::new(), true),
        }
    }

    /// The clients that were given something to read, or the end of their connection, since the last call; some of them more
    /// than once.
    pub fn take_told(&mut self) -> Vec<ClientId> {
        std::mem::take(&mut self.change().told)
    }

    /// Whether there is a stream under this key now.
    #[must_use]
    pub fn has_stream(&self, db: usize, key: &[u8]) -> bool {
        let core = self.core();
        let value = core.dbs[db].get(key).filter(|value| value.expires_ms.is_none_or(|end| end > core.now_ms()));
        value.is_some_and(|value| matches!(&*value.data, crate::data::KeyData::Stream(_)))
    }

    fn execute(&mut self, client: ClientId, words: &[Vec<u8>]) {
        let name = words.first().map(|name| String::from_utf8_lossy(name).to_lowercase()).unwrap_or_default();
        let answer = self.answer(CommandCaller { client, in_script: false }, &name, words);
        let mut core = self.change();
        core.commit();
        let is_pushed = answer.is_ok() && matches!(&*name, "subscribe" | "unsubscribe");
        core.told.push(client);
        if let Some(client) = core.clients.get_mut(&client).filter(|_| !is_pushed) {
            answer.unwrap_or_else(RespReply::Error).write(client.resp3, &mut client.out);
        }
    }

    /// Runs a command as an administrator, regardless of denied commands.
    pub fn run(&mut self, words: &[&str]) -> RespReply {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let name = String::from_utf8_lossy(&words[0]).to_lowercase();
        let denied = std::mem::take(&mut self.change().refusals.denied);
        let answer = self.answer(CommandCaller { client: 0, in_script: false }, &name, &words);
        let mut core = self.change();
        core.refusals.denied = denied;
        core.commit();
        answer.unwrap_or_else(RespReply::Error)
    }

    fn answer(&mut self, call: CommandCaller, name: &str, words: &[Vec<u8>]) -> CommandResult {
        let scripted = matches!(name, "eval" | "evalsha" | "script");
        let command = CommandSpec::find(name);
        if !scripted && command.is_none() {
            let quoted: String =
                words[1..].iter().map(|word| format!("'{}' ", String::from_utf8_lossy(word))).collect();
            let name = String::from_utf8_lossy(&words[0]);
            return Err(format!("ERR unknown command '{name}', with args beginning with: {quoted}"));
        }
        if let Some(error) = commands::of_container(name, words) {
            return Err(error);
        }
        if command.is_some_and(|command| !command.takes(words.len())) || scripted && words.len() < 2 {
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
        if self.core().refusals.denied.contains(name) {
            let shown = shown(name, words);
            return Err(format!("NOPERM this user has no permissions to run the '{shown}' command"));
        }
        if let Some(refusal) = command.and_then(|command| command.refusal(&self.core())) {
            return Err(refusal);
        }
        if self.core().clients.get(&call.client).is_some_and(|client| !client.resp3 && !client.channels.is_empty())
            && !matches!(name, "subscribe" | "unsubscribe" | "ping" | "quit")
        {
            let shown = shown(name, words);
            return Err(format!(
                "ERR Can't execute '{shown}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                this context"
            ));
        }
        match command {
            Some(command) => (command.run)(&mut self.change(), call, words),
            None => self.script(call, name, words),
        }
    }

    fn script(&mut self, call: CommandCaller, name: &str, words: &[Vec<u8>]) -> CommandResult {
        if name == "script" {
            return self.scripts(words);
        }
        if words.len() < 3 {
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
        let count = integer(&words[2])?;
        let count = usize::try_from(count).map_err(|_| "ERR Number of keys can't be negative")?;
        if count > words.len() - 3 {
            return Err("ERR Number of keys can't be greater than number of args".into());
        }
        let hash = if name == "eval" {
            self.engine.load(&words[1])?
        } else {
            String::from_utf8_lossy(&words[1]).to_lowercase()
        };
        if name == "eval" {
            self.change().scripts.insert(hash.clone());
        }
        if !self.core().scripts.contains(&hash) {
            return Err("NOSCRIPT No matching script. Please use EVAL.".into());
        }
        let (keys, values) = words[3..].split_at(count);
        self.engine.clone().run(&hash, &self.core, call, keys, values)
    }

    fn scripts(&mut self, words: &[Vec<u8>]) -> CommandResult {
        if commands::is(&words[1], "load") && words.len() == 3 {
            let hash = self.engine.load(&words[2])?;
            self.change().scripts.insert(hash.clone());
            return Ok(RespReply::text(hash));
        }
        if commands::is(&words[1], "flush") {
            self.change().scripts.clear();
            return Ok(RespReply::OK);
        }
        if commands::is(&words[1], "exists") && words.len() > 2 {
            let known = |hash: &Vec<u8>| self.core().scripts.contains(&*String::from_utf8_lossy(hash));
            return Ok(RespReply::Array(words[2..].iter().map(|hash| RespReply::Int(known(hash).into())).collect()));
        }
        Err(commands::SYNTAX.into())
    }
}

/// A command's name in a refusal: with its subcommand.
fn shown(name: &str, words: &[Vec<u8>]) -> String {
    match (name, words.get(1)) {
        ("xinfo" | "script" | "client" | "config", Some(sub)) => {
            format!("{name}|{}", String::from_utf8_lossy(sub).to_lowercase())
        }
        _ => name.to_owned(),
    }
}

/// Events that happen to a server, as opposed to its commands.
impl RedisModel {
    /// Everything that was written here.
    #[must_use]
    pub fn history(&self) -> WriteHistory {
        self.core().history.clone()
    }

    /// A replica takes what it does not have of its primary's history, as [`RedisModel::replicate`] does.
    pub fn follow(&mut self, primary: &Self) {
        let history = &primary.core().history;
        self.replicate(history, history.len());
    }

    /// How many steps were written here.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.core().history.len()
    }

    /// The current identity: a restart or a promotion changes it.
    #[must_use]
    pub fn identity(&self) -> ServerIdentity {
        self.core().identity.clone()
    }

    /// Changes its identity: a promotion changes the `replid`, a restart all of it.
    pub fn set_identity(&mut self, identity: ServerIdentity) {
        self.change().identity = identity;
    }

    /// Whether it is a primary or a replica.
    #[must_use]
    pub fn role(&self) -> ReplicationRole {
        self.core().role.clone()
    }

    /// Whether it accepts writes.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.core().role == ReplicationRole::Primary
    }

    /// Makes it a primary or a replica.
    pub fn set_role(&mut self, role: ReplicationRole) {
        self.change().role = role;
    }

    /// Restarts the process with this much of the history: no connections, no scripts.
    pub fn restart(&mut self, history: WriteHistory, identity: ServerIdentity) {
        let mut core = self.change();
        core.clients.clear();
        core.scripts.clear();
        core.pending.clear();
        core.identity = identity;
        core.load(history);
    }

    /// Replaces the dataset of the running server.
    pub fn replace(&mut self, history: WriteHistory) {
        self.change().load(history);
    }

    /// A replica copies what it lacks of the first `upto` steps of its primary's history. One with a different history
    /// copies it completely, and its subscribers receive none of it.
    pub fn replicate(&mut self, primary: &WriteHistory, upto: usize) {
        let mut core = self.change();
        let have = core.history.len();
        // Each step is made once, behind one history: whoever shares it shares all before it.
        let is_same = |last: &Rc<Vec<WrittenEffect>>| Rc::ptr_eq(last, &primary[have - 1]);
        let follows = have <= upto && core.history.last().is_none_or(is_same);
        if !follows {
            return core.load(primary[..upto].to_vec());
        }
        for step in &primary[have..upto] {
            step.iter().for_each(|effect| core.apply(effect));
            core.history.push(Rc::clone(step));
        }
    }

    /// Removes a key, by eviction or by an operator. False if it did not exist.
    pub fn remove(&mut self, db: usize, key: &[u8]) -> bool {
        let mut core = self.change();
        if !core.dbs[db].contains_key(key) {
            return false;
        }
        let effect = WrittenEffect::Set { db, key: key.to_vec(), value: None };
        core.apply(&effect);
        core.pending.push(effect);
        core.commit();
        true
    }

    /// The keys of a database with this kind of name.
    #[must_use]
    pub fn keys(&self, db: usize, like: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.core().dbs[db].keys().filter(|key| like(key)).cloned().collect()
    }

    /// The ids of a stream's entries; empty for anything else.
    #[must_use]
    pub fn entries(&self, db: usize, key: &[u8]) -> Vec<crate::EntryId> {
        match self.core().dbs[db].get(key).map(|value| &*value.data) {
            Some(crate::data::KeyData::Stream(stream)) => {
                stream.range(crate::EntryId::default(), crate::EntryId::MAX).map(|(id, _)| id).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Runs a command of a script, with the checks that Redis applies there.
pub(crate) fn from_script(
    core: &Rc<RefCell<Core>>,
    running: &mut script::RunningScript,
    words: &[Vec<u8>],
) -> CommandResult {
    let name = String::from_utf8_lossy(&words[0]).to_lowercase();
    let command = CommandSpec::find(&name);
    if command.is_none() && matches!(&*name, "eval" | "evalsha" | "script") {
        return Err("ERR This Redis command is not allowed from script".into());
    }
    let command = command.ok_or("ERR Unknown Redis command called from script")?;
    if !command.takes(words.len()) {
        return Err("ERR Wrong number of args calling Redis command from script".into());
    }
    if !command.is_for_scripts() {
        return Err("ERR This Redis command is not allowed from script".into());
    }
    let mut core = core.borrow_mut();
    if core.refusals.denied.contains(&name) {
        return Err("ERR The user executing the script can't run this command or subcommand".into());
    }
    // Redis does not abort a script that has written.
    if !running.has_written
        && let Some(refusal) = command.refusal(&core)
    {
        return Err(refusal);
    }
    running.has_written |= command.is_write();
    (command.run)(&mut core, running.call, words)
}
