-- Lets a session into its user's set, or refuses it, in one step over all replicas.
--
-- KEYS 1  the user's leases: a sorted set of <stamp>:<replica>:<session>, scored by the lease's end in ms
-- KEYS 2  the user's revocation: tokens issued in this second or before are refused
-- ARGV    1 the new member, 2 its session, 3 lease in ms, 4 greatest count, 5 "evict" or "refuse",
--         6 when the token was issued in s, or ""
-- Returns {verdict, count, evicted members, replaced members, stamp}; verdict 1 in, 0 refused, -1 revoked. The stamp is
-- the new member's, or one above that of the members it replaces, if that is greater: the newest connection of a session
-- has the greatest one.

local revoked = redis.call('GET', KEYS[2])
if revoked and (ARGV[6] == '' or tonumber(ARGV[6]) <= tonumber(revoked)) then
  return {-1, 0, {}, {}, 0}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local max = tonumber(ARGV[4])
local suffix = ':' .. ARGV[2]
local others, replaced = {}, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(member, -#suffix) == suffix then
    replaced[#replaced + 1] = member
  else
    others[#others + 1] = member
  end
end

local evicted = {}
if #others >= max then
  if max == 0 or ARGV[5] ~= 'evict' then
    return {0, #others, {}, {}, 0}
  end
  table.sort(others)
  for i = 1, #others - max + 1 do
    evicted[i] = others[i]
    redis.call('ZREM', KEYS[1], others[i])
  end
end
local stamp = tonumber(string.match(ARGV[1], '^%d+'))
for _, member in ipairs(replaced) do
  redis.call('ZREM', KEYS[1], member)
  stamp = math.max(stamp, tonumber(string.match(member, '^%d+')) + 1)
end

local lease = tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], now + lease, string.format('%.0f', stamp) .. string.match(ARGV[1], ':.*'))
redis.call('PEXPIRE', KEYS[1], lease + 5000)
return {1, #others - #evicted + 1, evicted, replaced, stamp}
