-- Takes or renews an exclusive lease.
--
-- KEYS 1  the lease: the name of its holder
-- ARGV    1 who asks, 2 lease in ms
-- Returns 1 when the lease is held by who asks.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
