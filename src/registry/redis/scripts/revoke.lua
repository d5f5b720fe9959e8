-- Refuses a user's tokens issued until now; a later call never shortens an earlier one.
--
-- KEYS 1  the user's revocation: tokens issued in this second or before are refused
-- ARGV    1 how long it is remembered, in ms

local life = math.max(tonumber(ARGV[1]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], redis.call('TIME')[1], 'PX', life)
return 1
