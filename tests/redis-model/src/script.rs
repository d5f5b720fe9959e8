//! Lua scripts in a real Lua 5.1, with Redis's API: `KEYS`, `ARGV`, `redis.call`, `redis.pcall`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
};

use mlua::{Error, Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value};

use crate::{
    RespReply,
    core::{CommandCaller, CommandResult, Core},
    number, server,
};

/// Compiles and runs scripts. Cheap to clone: servers of one thread share it.
#[derive(Clone)]
pub struct ScriptEngine {
    lua: Lua,
    compiled: Rc<RefCell<BTreeMap<String, Function>>>,
    /// The running script, and its server.
    running: Rc<ServerSlot>,
}

/// Where a script finds its server.
type ServerSlot = RefCell<Option<(Rc<RefCell<Core>>, RunningScript)>>;

/// A running script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningScript {
    pub(crate) call: CommandCaller,
    /// It ran a command that writes.
    pub(crate) has_written: bool,
}

impl fmt::Debug for ScriptEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("scripts", &self.compiled.borrow().len()).finish_non_exhaustive()
    }
}

/// An error of a command that `redis.call` raised.
#[derive(Debug)]
struct Raised {
    text: String,
    line: usize,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Raised {}

/// Scripts may neither read nor create globals.
const SANDBOX: &str = r#"
setmetatable(_G, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
  __newindex = function() error('Attempt to modify a readonly table', 2) end,
})
"#;

impl Default for ScriptEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptEngine {
    /// A new Lua runtime.
    ///
    /// # Panics
    /// If Lua cannot be set up.
    #[must_use]
    pub fn new() -> Self {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default()).expect("a Lua");
        let engine = Self { lua, compiled: Rc::default(), running: Rc::default() };
        engine.equip().expect("the table of Redis");
        engine
    }

    /// Whether nothing else refers to it: then it may move to another thread.
    #[must_use]
    pub fn is_sole(&self) -> bool {
        Rc::strong_count(&self.compiled) == 1
    }

    fn equip(&self) -> mlua::Result<()> {
        let lua = &self.lua;
        let redis = lua.create_table()?;
        let running = Rc::clone(&self.running);
        redis.set("pcall", lua.create_function(move |lua, words| to_lua(lua, call(&running, &words)?))?)?;
        let running = Rc::clone(&self.running);
        redis.set(
            "call",
            lua.create_function(move |lua, words| match call(&running, &words)? {
                RespReply::Error(text) => Err(raise(lua, text)),
                reply => to_lua(lua, reply),
            })?,
        )?;
        let outcome = |field: &'static str| {
            lua.create_function(move |lua, text: mlua::LuaString| {
                let table = lua.create_table()?;
                table.set(field, text)?;
                Ok(table)
            })
        };
        redis.set("error_reply", outcome("err")?)?;
        redis.set("status_reply", outcome("ok")?)?;
        lua.globals().set("redis", redis)?;
        for name in ["KEYS", "ARGV"] {
            lua.globals().set(name, lua.create_table()?)?;
        }
        lua.load(SANDBOX).exec()
    }

    /// Compiles a script unless already compiled; returns its hash.
    pub(crate) fn load(&self, text: &[u8]) -> Result<String, String> {
        let hash = sha1_smol::Sha1::from(text).digest().to_string();
        if !self.compiled.borrow().contains_key(&hash) {
            let chunk = self.lua.load(text).set_name("@user_script").into_function();
            let chunk = chunk.map_err(|error| {
                let text = error.to_string();
                let text = text.trim_start_matches("syntax error: ").lines().next().unwrap_or_default().to_owned();
                format!("ERR Error compiling script (new function): {text}")
            })?;
            self.compiled.borrow_mut().insert(hash.clone(), chunk);
        }
        Ok(hash)
    }

    pub(crate) fn run(
        &self,
        hash: &str,
        core: &Rc<RefCell<Core>>,
        call: CommandCaller,
        keys: &[Vec<u8>],
        values: &[Vec<u8>],
    ) -> CommandResult {
        let script = self.compiled.borrow().get(hash).cloned().ok_or("ERR the script is unknown")?;
        let call = CommandCaller { in_script: true, ..call };
        *self.running.borrow_mut() = Some((Rc::clone(core), RunningScript { call, has_written: false }));
        let result = self.give(keys, values).and_then(|()| script.call::<Value>(()));
        *self.running.borrow_mut() = None;
        match result {
            Ok(value) => Ok(from_lua(&value)),
            Err(error) => Err(client_error(&error, hash)),
        }
    }

    fn give(&self, keys: &[Vec<u8>], values: &[Vec<u8>]) -> mlua::Result<()> {
        for (name, list) in [("KEYS", keys), ("ARGV", values)] {
            let table = self.lua.create_table_with_capacity(list.len(), 0)?;
            for (at, word) in list.iter().enumerate() {
                table.raw_set(at + 1, self.lua.create_string(word)?)?;
            }
            self.lua.globals().raw_set(name, table)?;
        }
        Ok(())
    }
}

fn raise(lua: &Lua, text: String) -> Error {
    let line = Cell::new(0);
    lua.inspect_stack(1, |debug| line.set(debug.current_line().unwrap_or(0)));
    Error::external(Raised { text, line: line.get() })
}

/// Runs one command of the running script.
fn call(running: &ServerSlot, words: &MultiValue) -> mlua::Result<RespReply> {
    if words.is_empty() {
        return Ok(RespReply::Error("ERR Please specify at least one argument for this redis lib call".into()));
    }
    let mut texts = Vec::with_capacity(words.len());
    for word in words {
        texts.push(match word {
            Value::String(text) => text.as_bytes().to_vec(),
            Value::Integer(number) => number.to_string().into_bytes(),
            Value::Number(number) => number::of_script(*number).into_bytes(),
            _ => {
                let text = "ERR Lua redis lib command arguments must be strings or integers";
                return Ok(RespReply::Error(text.into()));
            }
        });
    }
    let mut running = running.borrow_mut();
    let (core, state) = running.as_mut().ok_or_else(|| Error::runtime("no script runs"))?;
    Ok(server::from_script(core, state, &texts).unwrap_or_else(RespReply::Error))
}

/// An error as the client receives it.
fn client_error(error: &Error, hash: &str) -> String {
    if let Error::CallbackError { cause, .. } = error
        && let Some(Raised { text, line }) = cause.downcast_ref::<Raised>()
    {
        return format!("{text} script: {hash}, on @user_script:{line}.");
    }
    let text = error.to_string();
    let text = text.trim_start_matches("runtime error: ").lines().next().unwrap_or_default();
    let line = text.split(':').nth(1).and_then(|line| line.parse::<usize>().ok()).unwrap_or(0);
    format!("ERR {text} script: {hash}, on @user_script:{line}.")
}

fn table_of(lua: &Lua, field: &str, text: &str) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set(field, text)?;
    Ok(Value::Table(table))
}

fn to_lua(lua: &Lua, reply: RespReply) -> mlua::Result<Value> {
    Ok(match reply {
        RespReply::Status(text) => table_of(lua, "ok", text)?,
        RespReply::Error(text) => table_of(lua, "err", &text)?,
        RespReply::Int(number) => Value::Integer(number),
        RespReply::Bulk(bytes) => Value::String(lua.create_string(bytes)?),
        RespReply::Verbatim(text) => Value::String(lua.create_string(text)?),
        RespReply::Double(number) => Value::String(lua.create_string(number::printed(number))?),
        RespReply::Nil | RespReply::NilArray => Value::Boolean(false),
        RespReply::Array(items) | RespReply::Push(items) => list(lua, items)?,
        RespReply::Map(pairs) => list(lua, pairs.into_iter().flat_map(|(key, value)| [key, value]).collect())?,
    })
}

fn list(lua: &Lua, items: Vec<RespReply>) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(items.len(), 0)?;
    for (at, item) in items.into_iter().enumerate() {
        table.raw_set(at + 1, to_lua(lua, item)?)?;
    }
    Ok(Value::Table(table))
}

fn from_lua(value: &Value) -> RespReply {
    match value {
        Value::String(text) => RespReply::Bulk(text.as_bytes().to_vec()),
        Value::Integer(number) => RespReply::Int(*number),
        Value::Number(number) => RespReply::Int(*number as i64),
        Value::Boolean(true) => RespReply::Int(1),
        Value::Table(table) => of_table(table),
        _ => RespReply::Nil,
    }
}

fn of_table(table: &Table) -> RespReply {
    let text = |field: &str| match table.raw_get::<Value>(field) {
        Ok(Value::String(text)) => Some(text.to_string_lossy()),
        _ => None,
    };
    if let Some(text) = text("err") {
        return RespReply::Error(text);
    }
    if let Some(text) = text("ok") {
        return if text == "OK" { RespReply::OK } else { RespReply::text(text) };
    }
    let items = (1..).map_while(|at| match table.raw_get::<Value>(at) {
        Ok(Value::Nil) | Err(_) => None,
        Ok(item) => Some(from_lua(&item)),
    });
    RespReply::Array(items.collect())
}
