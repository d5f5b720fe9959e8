-- Appends a publication to its topic's stream and publishes it on the topic's channel, in one atomic step.
-- Gateways and engines use the same script; docs/publishing-from-redis.md shows how.
--
-- KEYS[1]  stream             {prefix}{t:<topic>}:s
-- KEYS[2]  channel            {prefix}{t:<topic>}:c
-- KEYS[3]  dedupe key         {prefix}{t:<topic>}:i:<msg_id>   (only with a msg_id)
-- ARGV[1]  payload            one JSON object
-- ARGV[2]  retain_max         entries kept in the stream, about; 0: no stream, only publish
-- ARGV[3]  epoch              the generation of the server, or the epoch of the last id got for this topic if greater
-- ARGV[4]  published_ms       when, in milliseconds since 1970               (default 0)
-- ARGV[5]  channel            the private channel inside a user's stream     (default -)
-- ARGV[6]  retain_ttl         seconds an idle stream is kept; 0: for ever    (default 0)
-- ARGV[7]  renew              0 leaves the stream's expiry as it is          (default 1)
-- ARGV[8]  dedupe_ttl         milliseconds the msg_id is remembered          (only with a msg_id)
--
-- Returns the id ("-" without a stream), or the first id and " duplicate" when the msg_id was seen before; then nothing
-- is published. An error means that nothing was stored.
local stream, dedupe, payload, keep = KEYS[1], KEYS[3], ARGV[1], ARGV[2]
local channel = ARGV[5] or '-'

if dedupe then
  local first = redis.call('GET', dedupe)
  if first then
    return first .. ' duplicate'
  end
end

local id, prev = '-', '-'
if keep ~= '0' then
  if channel == '-' then
    id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, ARGV[3] .. '-*', 'd', payload)
  else
    id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, ARGV[3] .. '-*', 'd', payload, 'c', channel)
  end

  if type(id) ~= 'string' then
    local epoch
    if not id then
      -- There is no stream. Its ids must be above all that it may have given before it was lost or expired.
      local time = redis.call('TIME')
      local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
      epoch = string.format('%.0f', math.max(now, tonumber(ARGV[3]) + 1))
      prev = '0-0'
    elseif string.find(id.err, 'equal or smaller', 1, true) then
      -- The stream is in a later epoch than the publisher believes: its epoch goes on.
      local info = redis.call('XINFO', 'STREAM', stream)
      for at = 1, #info, 2 do
        if info[at] == 'last-generated-id' then
          epoch = string.match(info[at + 1], '^%d+')
        end
      end
    else
      return id
    end
    local entry = channel == '-' and {'d', payload} or {'d', payload, 'c', channel}
    id = redis.pcall('XADD', stream, 'MAXLEN', '~', keep, epoch .. '-*', unpack(entry))
    if type(id) ~= 'string' then
      return id
    end
  end

  local first = string.sub(id, -2) == '-0'
  if first and prev == '-' then
    -- An epoch begins behind another one: name the entry before, the proof that joins the two.
    local before = redis.call('XREVRANGE', stream, '(' .. id, '-', 'COUNT', 1)
    if before[1] then
      prev = before[1][1]
    else
      local info = redis.call('XINFO', 'STREAM', stream)
      for at = 1, #info, 2 do
        if info[at] == 'entries-added' and info[at + 1] == 1 then
          prev = '0-0'
        end
      end
    end
  end

  local ttl = ARGV[6]
  if ttl and ttl ~= '0' and (first or ARGV[7] ~= '0') then
    redis.call('EXPIRE', stream, ttl)
  end
end

local message = id .. ' ' .. prev .. ' ' .. (ARGV[4] or '0') .. ' ' .. channel .. ' ' .. payload
local sent = redis.pcall('PUBLISH', KEYS[2], message)
if type(sent) == 'table' then
  -- Not allowed to publish: then it must not be stored either.
  if id ~= '-' then
    redis.call('XDEL', stream, id)
  end
  return sent
end
if dedupe then
  redis.call('SET', dedupe, id, 'PX', ARGV[8])
end
return id
