-- Writes what a member made of the roster, unless somebody else wrote meanwhile or the server is another one.
--
-- KEYS[1]  {prefix}{gen}
-- ARGV     1 the revision that was read, "" where there was none, 2 the server's replication id, 3 the new revision,
--          4 generation, 5 greatest epoch given, 6 state, 7 the control channel,
--          8 1 where engines may publish by themselves or else 0, 9 the topic rules or "" to leave those that are there,
--          10… beats to be forgotten
--
-- Returns "OK", or "AGAIN" when it has to be read again. An error means that nothing was written.
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
-- Where engines find the generation.
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
