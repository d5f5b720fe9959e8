-- Renews a member that its replica found missing: the replica slept through the lease, Redis lost data, or the slot
-- went to somebody else.
--
-- KEYS 1  the user's leases
-- KEYS 2  the user's revocation: tokens issued in this second or before are refused
-- ARGV    1 the member, 2 its session, 3 its replica, 4 lease in ms, 5 greatest count,
--         6 when the token was issued in s, or ""
-- Returns 1 when the member is in (again), 0 when there is no room or the session has a newer connection on another
-- replica, -1 when the token was revoked meanwhile. A server that lost its last writes may name an older connection of
-- the session: that one has to give way.

local revoked = redis.call('GET', KEYS[2])
if revoked and (ARGV[6] == '' or tonumber(ARGV[6]) <= tonumber(revoked)) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return -1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local own = tonumber(string.match(ARGV[1], '^%d+'))
local suffix = ':' .. ARGV[2]
local count = 0
local present = false
local older = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if member == ARGV[1] then
    present = true
  elseif string.sub(member, -#suffix) == suffix then
    local stamp, replica = string.match(member, '^(%d+):([^:]*):')
    stamp = tonumber(stamp)
    if stamp > own or stamp == own and replica >= ARGV[3] then
      -- A newer connection of the same session here is no rival: this member is about to be forgotten.
      return replica == ARGV[3] and 1 or 0
    end
    older[#older + 1] = member
  else
    count = count + 1
  end
end
if not present and count >= tonumber(ARGV[5]) then
  return 0
end
for _, member in ipairs(older) do
  redis.call('ZREM', KEYS[1], member)
end
local lease = tonumber(ARGV[4])
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('PEXPIRE', KEYS[1], lease + 5000)
return 1
