-- Refuses a user's tokens issued until a time; a later call never shortens or revokes an earlier one.
--
-- KEYS 1  the user's revocation: tokens issued at this time (in ms) or before are refused
-- ARGV    1 the time, by the clock of the replica that was asked, 2 how long it is remembered, in ms

local at = math.max(tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[1]) or 0) or 0)
local life = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], string.format('%d', at), 'PX', string.format('%d', life))
return 1
