-- Gives topics without a stream unique positions: empty streams, which expire if nothing is published and no replica asks
-- again. An expired one is never restored, because its next number may have been given.
--
-- KEYS  1 {prefix}{gen}, 2… streams
-- ARGV  1 the generation, 2… for each stream the milliseconds until it expires
--
-- Returns the last id of each stream, or an error in its place.
local gen = redis.call('HMGET', KEYS[1], 'g', 'identity')
if gen[1] ~= ARGV[1] or not string.find(redis.call('INFO', 'replication'), 'master_replid:' .. gen[2], 1, true) then
  return redis.error_reply('STALE the generation is ' .. (gen[1] or 'not named'))
end

local function anchor(stream, kept)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for field = 1, #info, 2 do
    if info[field] == 'last-generated-id' then
      if redis.call('PTTL', stream) >= 0 then
        redis.pcall('PEXPIRE', stream, kept)
      end
      return info[field + 1]
    end
  end
  if not string.find(info.err, 'no such key', 1, true) then
    return info
  end
  local epoch = redis.pcall('HINCRBY', KEYS[1], 'alloc', 1)
  if type(epoch) ~= 'number' then
    return epoch
  end
  local at = string.format('%.0f', epoch - 1) .. '-9007199254740991'
  local added = redis.pcall('XADD', stream, 'MAXLEN', 0, at, 'd', '')
  if type(added) ~= 'string' then
    return added
  end
  redis.call('PEXPIRE', stream, kept)
  return at
end

local answers = {}
for n = 2, #KEYS do
  answers[n - 1] = anchor(KEYS[n], ARGV[n])
end
return answers
