-- Writes a member's change of the roster, unless it was changed meanwhile or the server was replaced.
--
-- KEYS[1]  {prefix}{gen}
-- ARGV     1 the revision that was read, "" if there was none, 2 the server's replication id, 3 the new revision,
--          4 generation, 5 greatest epoch given, 6 state, 7 the control channel,
--          8 1 if engines may publish directly, else 0, 9 the topic rules or "" to keep the stored ones,
--          10… beats to delete
--
-- Returns "OK", or "AGAIN" if it must be read again. An error means that nothing was written.
if not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[2], 1, true) then
  return 'AGAIN'
end
local gen = redis.call('HMGET', KEYS[1], 'rev', 'alloc')
if (gen[1] or '') ~= ARGV[1] then
  return 'AGAIN'
end
local alloc = math.max(tonumber(gen[2] or '0'), tonumber(ARGV[5]))
redis.call('HSET', KEYS[1], 'format', '2', 'g', ARGV[4], 'identity', ARGV[2], 'alloc', string.format('%.0f', alloc), 'rev',
  ARGV[3], 'state', ARGV[6])
-- The generation for engines.
if ARGV[8] == '1' then
  redis.call('HSET', KEYS[1], 'open', ARGV[4])
else
  redis.call('HDEL', KEYS[1], 'open')
end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[1], 'rules', ARGV[9])
end
for at = 10, #ARGV do
  redis.call('HDEL', KEYS[1], 'beat:' .. ARGV[at])
end
redis.pcall('PUBLISH', ARGV[7], ARGV[3])
return 'OK'
