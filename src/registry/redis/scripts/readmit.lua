-- Renews a member that its replica found missing: the replica slept through the lease, Redis lost data, or the slot
-- went to somebody else.
--
-- KEYS 1  the user's leases
-- KEYS 2  the user's revocation: tokens issued in this second or before are refused
-- ARGV    1 the member, 2 lease in ms, 3 life of the set in ms, 4 greatest count, 5 when the token was issued in s, or ""
-- Returns 1 when the member is in (again), 0 when there is no room or the session has a newer connection on another
-- replica, -1 when the token was revoked meanwhile. A server that lost its last writes may name an older connection of
-- the session: that one has to give way.

local revoked = redis.call('GET', KEYS[2])
if revoked and (ARGV[5] == '' or tonumber(ARGV[5]) <= tonumber(revoked)) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return -1
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local own, here = string.match(ARGV[1], '^(%d+):([^:]*):')
own = tonumber(own)
local suffix = string.match(ARGV[1], ':[^:]*$')
local count = 0
local present = false
local older = {}
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
  else
    count = count + 1
  end
end
if not present and count >= tonumber(ARGV[4]) then
  return 0
end
for _, member in ipairs(older) do
  redis.call('ZREM', KEYS[1], member)
end
redis.call('ZADD', KEYS[1], string.format('%d', now + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
