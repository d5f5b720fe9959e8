-- Adds a session to its user's set, or refuses it, in one step over all replicas.
--
-- KEYS 1  the user's leases: a sorted set of <stamp>:<replica>:<session>, scored by the lease's end in ms
-- KEYS 2  the user's revocation: tokens issued at this time (in ms) or before are refused
-- KEYS 3  the user's standing: <sent>:inactive or <sent>:active
-- KEYS 4  the user's sessions that lost their places to named replacements: a sorted set by the stamps of those
-- ARGV    1 the new member, 2 lease in ms, 3 lifetime of the set in ms, 4 limit, 5 "evict" or "refuse",
--         6 when the token was issued in ms, or "", 7 another session whose place the member takes, or "",
--         8 "", or if the request may have waited in a suspended replica: the stamp of a connection from before
-- Returns {verdict, count, evicted members, replaced members, stamp}; verdict 1 admitted, 0 refused, -1 revoked, with the
-- time of the revocation in the place of the stamp, -2 late: it would end a connection elsewhere that may be newer. The
-- stamp is the new member's, or one above that of the members it replaces, if that is greater: the newest connection of a
-- session has the greatest one.

local standing = redis.call('GET', KEYS[3])
if standing and string.find(standing, ':inactive', 1, true) then
  -- Whatever the token's time.
  return {-1, 0, {}, {}, 9007199254740991}
end
local revoked = redis.call('GET', KEYS[2])
if revoked and (ARGV[6] == '' or tonumber(ARGV[6]) <= tonumber(revoked)) then
  return {-1, 0, {}, {}, tonumber(revoked)}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stamp, rest = string.match(ARGV[1], '^(%d+)(:.*)$')
local here, suffix = string.match(rest, '^:([^:]*)(:[^:]*)$')
local place = ARGV[7] ~= '' and ':' .. ARGV[7]
local others, replaced, expired = {}, {}, false
local held = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #held, 2 do
  local member = held[i]
  if tonumber(held[i + 1]) <= now then
    expired = true
  elseif string.sub(member, -#suffix) == suffix or place and string.sub(member, -#place) == place then
    replaced[#replaced + 1] = member
  else
    others[#others + 1] = member
  end
end
if expired then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now))
end

local max = tonumber(ARGV[4])
local evicted = {}
if #others >= max then
  if max == 0 or ARGV[5] ~= 'evict' then
    return {0, #others, {}, {}, 0}
  end
  table.sort(others)
  for i = 1, #others - max + 1 do
    evicted[i] = others[i]
  end
end
if ARGV[8] ~= '' then
  for _, ended in ipairs({evicted, replaced}) do
    for _, member in ipairs(ended) do
      local began, replica = string.match(member, '^(%d+):([^:]*):')
      -- Of its own replica's connections, the one that is processed later is newer.
      if replica ~= here and tonumber(began) > tonumber(ARGV[8]) then
        return {-2, 0, {}, {}, 0}
      end
    end
  end
end
for _, member in ipairs(evicted) do
  redis.call('ZREM', KEYS[1], member)
end
stamp = tonumber(stamp)
for _, member in ipairs(replaced) do
  redis.call('ZREM', KEYS[1], member)
  stamp = math.max(stamp, tonumber(string.match(member, '^%d+')) + 1)
end

-- Numbers are passed as text: Redis formats those of a script with 17 digits, which takes longer than the command.
local score = string.format('%d', now + tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], score, #replaced == 0 and ARGV[1] or string.format('%d', stamp) .. rest)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if place then
  -- Its replica may not have reported it yet.
  redis.call('ZADD', KEYS[4], string.format('%d', stamp), ARGV[7])
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
end
return {1, #others - #evicted + 1, evicted, replaced, stamp}
