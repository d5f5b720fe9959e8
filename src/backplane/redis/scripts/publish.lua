-- Appends publications to their topics' streams and publishes each on the channel of the same name, in one atomic step.
-- Gateways and engines use the same script; docs/publishing-from-redis.md shows how.
--
-- KEYS[1]  {prefix}{gen}      the dataset's generation, and the server for which it was created
-- ARGV[1]  generation         the one that the caller is attached to; under a lease followed, after blanks, by its
--                             name and the number of the caller's turn
--
-- Then for each publication, in their order:
-- KEYS  1  stream             {prefix}{t:<topic>}:s, also the channel's name
--       2  dedupe key         {prefix}{t:<topic>}:i:…  msg_id and publisher          (only with a msg_id)
-- ARGV  1  payload            one JSON object
--       2  retain_max         approximate number of entries kept; 0: no stream, only publish
--       3  epoch              the epoch of the last id received for this topic in this generation; 0 if none
--       4  published_ms       milliseconds since 1970; 0 if irrelevant
--       5  channel            the private channel inside a user's stream; - elsewhere
--       6  keep               1: keep an empty stream that is about to expire; 0: it was published to recently
--       7  dedupe_ttl         milliseconds the msg_id is remembered    (only with a msg_id)
--       8  content            a digest of the payload, without blanks  (only with a msg_id)
--
-- Of several publications, all have a msg_id or none has.
--
-- Returns the id ("-" without a stream), or the first id and " duplicate" if the msg_id was used before; then nothing
-- is published. For several publications an array with a result or error for each. An error means that nothing was stored.
-- REUSED: the msg_id was used with another content. STALE: the caller is not attached to this server or dataset; attach
-- again, then publish. FENCED: a publication of a later turn arrived before.

-- The greatest number of an epoch: the position before the next one's first entry.
local END = '9007199254740991'

local call, pcall = redis.call, redis.pcall
local generation, lease, turn = ARGV[1], nil, nil
if string.find(generation, ' ', 1, true) then
  generation, lease, turn = string.match(generation, '^(%d+) (%S+) (%d+)$')
end
local gen = call('HMGET', KEYS[1], 'format', 'g', 'identity')
if gen[1] and gen[1] ~= '2' then
  return redis.error_reply('FORMAT this script writes format 2, the dataset has format ' .. gen[1])
end
if gen[2] ~= generation or not gen[3] then
  return redis.error_reply('STALE the generation is ' .. (gen[2] or 'not named'))
end
if not string.find(call('INFO', 'replication'), 'master_replid:' .. gen[3], 1, true) then
  return redis.error_reply('STALE the generation was made for another server')
end

if lease then
  local newest = call('HGET', KEYS[1], 'turn:' .. lease)
  if newest and tonumber(newest) > tonumber(turn) then
    return redis.error_reply('FENCED ' .. newest .. ' is a later turn of ' .. lease)
  end
  if newest ~= turn then
    local set = pcall('HSET', KEYS[1], 'turn:' .. lease, turn)
    if type(set) ~= 'number' then
      return set
    end
  end
end

local keys, values = 1, 6
if (#ARGV - 1) * 2 == (#KEYS - 1) * 8 then
  keys, values = 2, 8
end
if (#KEYS - 1) * values ~= (#ARGV - 1) * keys then
  return redis.error_reply('ERR each publication needs ' .. values .. ' values')
end

local time = call('TIME')
local now = time[1] .. string.format('%03d', time[2] / 1000)
local middle = ' ' .. generation .. ' '

-- The id to request if the epoch does not simply continue, and the predecessor to record.
local function place(stream)
  local info, last = pcall('XINFO', 'STREAM', stream), nil
  if info.err and not string.find(info.err, 'no such key', 1, true) then
    return nil, nil, info
  end
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      last = info[at + 1]
    end
  end
  if not last then
    -- A stream that starts again must never repeat an id.
    local epoch = pcall('HINCRBY', KEYS[1], 'alloc', 1)
    if type(epoch) ~= 'number' then
      return nil, nil, epoch
    end
    return string.format('%.0f', epoch) .. '-0', '?'
  end
  local epoch, seq = string.match(last, '^(%d+)-(%d+)$')
  if tonumber(epoch) > tonumber(call('HGET', KEYS[1], 'alloc') or 0) then
    return nil, nil, redis.error_reply('STALE the stream has epoch ' .. epoch)
  end
  if tonumber(epoch) + (seq == END and 1 or 0) < tonumber(generation) then
    return generation .. '-0', last
  end
  if seq == END then
    return string.format('%.0f', tonumber(epoch) + 1) .. '-0', last
  end
  return epoch .. '-*'
end

-- Called once per publication; what it captures is created for each call of the script.
local function publish(stream, dedupe, payload, keep, epoch, published, channel, persist, dedupe_ttl, content)
  if dedupe then
    local first = pcall('GET', dedupe)
    if first then
      if type(first) ~= 'string' then
        return first
      end
      local id, known = string.match(first, '^(%S+) (%S+)$')
      if known ~= content then
        return redis.error_reply('REUSED the msg_id was used for another publication')
      end
      return id .. ' duplicate'
    end
  end

  local id, prev = '-', '-'
  if keep ~= '0' then
    if epoch == '0' then
      id = nil
    elseif channel == '-' then
      id = pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload, 't', now)
    else
      id = pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload, 't', now, 'c', channel)
    end
    if type(id) ~= 'string' then
      if id and not string.find(id.err, 'equal or smaller', 1, true) then
        return id
      end
      local wanted, before, failed = place(stream)
      if failed then
        return failed
      end
      local entry = {'XADD', stream, 'MAXLEN', '~', keep, wanted, 'd', payload, 't', now}
      if channel ~= '-' then
        entry[#entry + 1], entry[#entry + 2] = 'c', channel
      end
      if before then
        prev = before
        entry[#entry + 1], entry[#entry + 2] = 'p', before
      end
      id = pcall(unpack(entry))
      if type(id) ~= 'string' then
        return id
      end
      persist = '1'
    end
    if persist == '1' then
      pcall('PERSIST', stream)
    end
  end

  -- From here on nothing is refused: what is stored stays, and gateways find it when they compare.
  pcall('PUBLISH', stream, id .. ' ' .. prev .. middle .. published .. ' ' .. channel .. '\n' .. payload)
  if dedupe then
    pcall('SET', dedupe, id .. ' ' .. content, 'PX', dedupe_ttl)
  end
  return id
end

if #KEYS == keys + 1 then
  return publish(KEYS[2], keys == 2 and KEYS[3], unpack(ARGV, 2))
end
local answers = {}
for n = 1, (#KEYS - 1) / keys do
  local key, value = (n - 1) * keys + 1, (n - 1) * values + 1
  answers[n] = publish(KEYS[key + 1], keys == 2 and KEYS[key + 2], unpack(ARGV, value + 1, value + values))
end
return answers
