-- Appends publications to their topics' streams and publishes each on the channel of the same name, in one atomic step.
-- Gateways and engines use the same script; docs/publishing-from-redis.md shows how.
--
-- For each publication, in their order:
-- KEYS  1  stream             {prefix}{t:<topic>}:s, the channel's name as well
--       2  dedupe key         {prefix}{t:<topic>}:i:<msg_id>   (only with a msg_id)
-- ARGV  1  payload            one JSON object
--       2  retain_max         entries kept in the stream, about; 0: no stream, only publish
--       3  epoch              the generation of the server, or the epoch of the last id got for this topic if greater
--       4  published_ms       when, in milliseconds since 1970               (default 0)
--       5  channel            the private channel inside a user's stream     (default -)
--       6  retain_ttl         seconds an idle stream is kept; 0: for ever    (default 0); behind a minus the expiry is
--                             left as it is, unless an epoch begins
--       7  dedupe_ttl         milliseconds the msg_id is remembered          (only with a msg_id)
--
-- A single publication may leave off what has a default. Several have all of it, and all have a msg_id or none has.
--
-- Returns the id ("-" without a stream), or the first id and " duplicate" when the msg_id was seen before; then nothing
-- is published. An error means that nothing was stored. For several publications an array, an answer or error for each.

-- Needs nothing from outside: captured variables would be made anew for each call.
local function publish(stream, dedupe, payload, keep, epoch, published, channel, ttl, dedupe_ttl)
  local pcall = redis.pcall
  channel, ttl = channel or '-', ttl or '0'
  if dedupe then
    local first = pcall('GET', dedupe)
    if first then
      return type(first) == 'string' and first .. ' duplicate' or first
    end
  end

  local id, prev, failed = '-', '-', nil
  if keep ~= '0' then
    if channel == '-' then
      id = pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload)
    else
      id = pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, epoch .. '-*', 'd', payload, 'c', channel)
    end

    if type(id) ~= 'string' then
      if not id then
        -- There is no stream. Its ids must be above all that it may have given before it was lost or expired.
        local time = pcall('TIME')
        if time.err then
          return time
        end
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        epoch = string.format('%.0f', math.max(now, tonumber(epoch) + 1))
        prev = '0-0'
      elseif string.find(id.err, 'equal or smaller', 1, true) then
        -- The stream is in a later epoch than the publisher believes: its epoch goes on.
        local info = pcall('XINFO', 'STREAM', stream)
        if info.err then
          return info
        end
        for at = 1, #info, 2 do
          if info[at] == 'last-generated-id' then
            epoch = string.match(info[at + 1], '^%d+')
          end
        end
      else
        return id
      end
      local entry = channel == '-' and {'d', payload} or {'d', payload, 'c', channel}
      id = pcall('XADD', stream, 'MAXLEN', '~', keep, epoch .. '-*', unpack(entry))
      if type(id) ~= 'string' then
        return id
      end
    end

    -- Ends in "-0".
    if string.byte(id, -1) == 48 and string.byte(id, -2) == 45 then
      ttl = string.match(ttl, '%d+') or ttl
      if prev == '-' then
        -- An epoch begins behind another one: name the entry before, the proof that joins the two.
        local before = pcall('XREVRANGE', stream, '(' .. id, '-', 'COUNT', 1)
        if before[1] then
          prev = before[1][1]
        else
          local info = pcall('XINFO', 'STREAM', stream)
          for at = 1, #info, 2 do
            if info[at] == 'entries-added' and info[at + 1] == 1 then
              prev = '0-0'
            end
          end
        end
      end
    end
    -- Does not begin with a minus.
    if string.byte(ttl) ~= 45 and ttl ~= '0' then
      local renewed = pcall('EXPIRE', stream, ttl)
      failed = type(renewed) ~= 'number' and renewed
    end
  end

  if not failed then
    local message = id .. ' ' .. prev .. ' ' .. (published or '0') .. ' ' .. channel .. ' ' .. payload
    local sent = pcall('PUBLISH', stream, message)
    failed = type(sent) ~= 'number' and sent
  end
  if failed then
    -- Would stay for ever, or is not allowed to be published: then it must not be stored either.
    if id ~= '-' then
      pcall('XDEL', stream, id)
    end
    return failed
  end
  if dedupe then
    local remembered = pcall('SET', dedupe, id, 'PX', dedupe_ttl)
    if remembered.err then
      return remembered
    end
  end
  return id
end

local keys, values = 1, 6
if #ARGV * 2 == #KEYS * 7 then
  keys, values = 2, 7
end
if #KEYS == keys then
  return publish(KEYS[1], KEYS[2], unpack(ARGV))
end
if #KEYS * values ~= #ARGV * keys then
  return redis.error_reply('ERR each publication needs ' .. values .. ' values')
end
local answers = {}
for n = 1, #KEYS / keys do
  local key, value = (n - 1) * keys, (n - 1) * values
  answers[n] = publish(KEYS[key + 1], keys == 2 and KEYS[key + 2], unpack(ARGV, value + 1, value + values))
end
return answers
