-- Removes a replica, unless its lease is valid (again).
--
-- KEYS 1  leases of the replicas   2  their figures
-- ARGV    1 the replica, 2 "now" to remove it although its lease is valid, because it leaves
-- Returns 1 if it was removed.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) > now and ARGV[2] ~= 'now' then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
