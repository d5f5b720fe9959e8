-- Adds a member again that its replica found missing: the replica slept through the lease, Redis lost data or accepted no
-- writes, or another connection took the place.
--
-- KEYS 1  the user's leases
-- KEYS 2  the user's revocation: tokens issued at this time (in ms) or before are refused
-- KEYS 3  the user's standing: <sent>:inactive or <sent>:active
-- KEYS 4  the user's sessions that lost their places to named replacements: a sorted set by the stamps of those
-- ARGV    1 the member, 2 lease in ms, 3 lifetime of the set in ms, 4 limit, 5 when the token was issued in ms, or "",
--         6 "evict" or "refuse", 7 the session whose place the member takes, or ""
-- Returns 1 if the member is in the set (again); {members of the session whose place it took, members over the limit} if
-- others were removed for it; 0 if the session has a newer connection on another replica, or another one took its place;
-- 2 if there is no room; -1 if the token was revoked, or the user became inactive, meanwhile.
--
-- Age decides which members are over the limit, so that the order in which replicas return does not matter: "refuse"
-- removes the newest, "evict" the oldest. A server that lost its last writes may contain an older connection of the
-- session, which is then replaced.

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
      -- A newer connection of the same session on this replica does not conflict: this member is about to be removed.
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
  -- Its replica may not have reported the previous connection yet.
  redis.call('ZADD', KEYS[4], string.format('%d', own), ARGV[7])
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
end
if #replaced > 0 or #over > 0 then
  return {replaced, over}
end
return 1
