-- Registers under a lease the names that a replica requests from a feed, and removes those whose lease has expired.
--
-- KEYS 1  sorted set: the names, by the end of their leases in ms
-- ARGV    1 lease in ms, 2 whether to return the names, 3… the names
-- Returns the names that any replica requests, or none.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ends = now + tonumber(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for at = 3, #ARGV do
  redis.call('ZADD', KEYS[1], 'GT', ends, ARGV[at])
end
-- The key expires with the last of them.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIRE', KEYS[1], math.max(1, tonumber(last[2]) - now))
end
if ARGV[2] == '1' then
  return redis.call('ZRANGE', KEYS[1], 0, -1)
end
return {}
