-- Renews a member that its replica found missing: the replica slept through the lease, Redis lost data or took no
-- writes, or the slot went to somebody else.
--
-- KEYS 1  the user's leases
-- KEYS 2  the user's revocation: tokens issued at this time (in ms) or before are refused
-- KEYS 3  the user's standing: <sent>:inactive or <sent>:active
-- KEYS 4  the user's sessions whose places others took by name: a sorted set by the stamps of those
-- ARGV    1 the member, 2 lease in ms, 3 life of the set in ms, 4 greatest count, 5 when the token was issued in ms, or "",
--         6 "evict" or "refuse", 7 the session whose place the member takes, or ""
-- Returns 1 when the member is in (again); {members of the session whose place it took, members that were too many} when
-- others gave way to it; 0 when the session has a newer connection on another replica, or another one took its place; 2 when there is no room; -1 when
-- the token was revoked, or the user became inactive, meanwhile.
--
-- Whoever is too many is decided by age, so that the order in which replicas come back does not matter: with "refuse" the
-- newest go, with "evict" the oldest. A server that lost its last writes may name an older connection of the session: that
-- one has to give way.

local revoked = redis.call('GET', KEYS[2])
local standing = redis.call('GET', KEYS[3])
if standing and string.find(standing, ':inactive', 1, true)
    or revoked and (ARGV[5] == '' or tonumber(ARGV[5]) <= tonumber(revoked)) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return -1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local function stamp_of(member)
  return tonumber(string.match(member, '^%d+'))
end

local own, here = string.match(ARGV[1], '^(%d+):([^:]*):')
own = tonumber(own)
local suffix, place = string.match(ARGV[1], ':[^:]*$'), ':' .. ARGV[7]
local taken = redis.call('ZSCORE', KEYS[4], string.sub(suffix, 2))
if taken and tonumber(taken) > own then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
local present = false
local others, older, replaced, over = {}, {}, {}, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if member == ARGV[1] then
    present = true
  elseif string.sub(member, -#suffix) == suffix then
    local stamp, replica = string.match(member, '^(%d+):([^:]*):')
    stamp = tonumber(stamp)
    if stamp > own or stamp == own and replica >= here then
      -- A newer connection of the same session here is no rival: this member is about to be forgotten.
      return replica == here and 1 or 0
    end
    older[#older + 1] = member
  elseif ARGV[7] ~= '' and string.sub(member, -#place) == place and stamp_of(member) < own then
    replaced[#replaced + 1] = member
  else
    others[#others + 1] = member
  end
end

local excess = #others + 1 - tonumber(ARGV[4])
if not present and excess > 0 then
  others[#others + 1] = ARGV[1]
  local evicts = ARGV[6] == 'evict'
  table.sort(others, function(one, other)
    local a, b = stamp_of(one), stamp_of(other)
    if a == b then
      return one < other
    end
    if evicts then
      return a < b
    end
    return a > b
  end)
  for i = 1, excess do
    if others[i] == ARGV[1] then
      return 2
    end
    over[i] = others[i]
  end
end
for _, gone in ipairs({older, replaced, over}) do
  for _, member in ipairs(gone) do
    redis.call('ZREM', KEYS[1], member)
  end
end
redis.call('ZADD', KEYS[1], string.format('%d', now + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[7] ~= '' then
  -- Its replica may not have told of the former connection yet.
  redis.call('ZADD', KEYS[4], string.format('%d', own), ARGV[7])
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
end
if #replaced > 0 or #over > 0 then
  return {replaced, over}
end
return 1
