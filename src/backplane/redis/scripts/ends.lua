-- The last id that each stream gave, which outlives its entries.
--
-- KEYS  1 {prefix}{gen}, 2… streams
--
-- Returns {the generation, or "" if it was not created for this server, an id for each stream, "" if there is none, an
-- error if it is not a stream}.
local gen = redis.call('HMGET', KEYS[1], 'g', 'identity')
local here = gen[2] and string.find(redis.call('INFO', 'replication'), 'master_replid:' .. gen[2], 1, true)
local answer = {here and gen[1] or ''}
for n = 2, #KEYS do
  local info = redis.pcall('XINFO', 'STREAM', KEYS[n])
  answer[n] = ''
  if info.err and not string.find(info.err, 'no such key', 1, true) then
    answer[n] = info
  end
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      answer[n] = info[at + 1]
    end
  end
end
return answer
