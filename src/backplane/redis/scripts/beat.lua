-- A member's beat: reads the state of the server, and stores a number that later proves how recent the dataset is.
--
-- KEYS[1]  {prefix}{gen}
-- ARGV     1 the member's name, 2 the number of this beat, 3 the generation and 4 the revision that it knows, 5 its last
--          answered beat on this server or "", 6… members whose beats are requested
--
-- Returns {the server's replication id, format, generation, identity, alloc, revision, the member's last stored beat,
-- the state if its revision differs or "", an error if the beat could not be written or "", the requested beats…}; "" for
-- what is missing. The beat is written only if server and generation are as expected and the dataset has not gone back
-- before the last one: otherwise missing entries would look proven.
local identity = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
local gen = redis.call('HMGET', KEYS[1], 'format', 'g', 'identity', 'alloc', 'rev', 'beat:' .. ARGV[1])
for at = 1, 6 do
  gen[at] = gen[at] or ''
end
local failed = ''
local went_back = ARGV[5] ~= '' and (tonumber(gen[6]) or -1) < tonumber(ARGV[5])
if gen[2] == ARGV[3] and gen[3] == identity and not went_back then
  local written = redis.pcall('HSET', KEYS[1], 'beat:' .. ARGV[1], ARGV[2])
  failed = type(written) == 'table' and written.err or ''
end
local state = gen[5] ~= ARGV[4] and redis.call('HGET', KEYS[1], 'state') or ''
local answer = {identity, gen[1], gen[2], gen[3], gen[4], gen[5], gen[6], state, failed}
for at = 6, #ARGV do
  answer[#answer + 1] = redis.call('HGET', KEYS[1], 'beat:' .. ARGV[at]) or ''
end
return answer
