-- Renews a replica's lease and statistics, and returns the replicas whose lease has expired.
--
-- KEYS 1  leases of the replicas, scored by their end in ms   2  their figures, a hash
-- ARGV    1 the replica, 2 its figures, 3 lease in ms, 4 how long both keys outlive the last renewal, in ms
-- Returns {Redis's time in us, 1 if the lease was still valid, else 0, replicas whose lease has expired, the number of valid leases}.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local running = ends and tonumber(ends) > now
local ended = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE')
return {time[1] * 1000000 + time[2], running and 1 or 0, ended, redis.call('ZCARD', KEYS[1]) - #ended}
