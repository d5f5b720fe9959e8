-- A member's beat: reads where it is, and leaves a number that proves later how far the dataset came.
--
-- KEYS[1]  {prefix}{gen}
-- ARGV     1 the member's name, 2 the number of this beat, 3 the generation and 4 the revision that it knows, 5 its last beat
--          that was answered here or else "", 6… members whose beats are wanted
--
-- Returns {the server's replication id, format, generation, identity, alloc, revision, the member's last beat that is here,
-- the state where its revision is another one or else "", an error where the beat could not be written or else "", beats of
-- those that were named…}; "" for what is missing. The beat is written only where server and generation are as they should
-- and the dataset has not gone back behind the last one: what it lacks would look proven.
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
