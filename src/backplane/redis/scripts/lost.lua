-- Checks that an acknowledged publication is still in its stream. Where the server lost it, appends a marker with the
-- lost range and publishes it, so that every subscriber is told, also one who reads the history later.
--
-- KEYS[1]  stream, the channel's name as well
-- ARGV[1]  the last id that was acknowledged
-- ARGV[2]  the generation of the server
-- ARGV[3]  retain_max
-- ARGV[4]  retain_ttl in seconds; 0: for ever
-- ARGV[5]  published_ms
-- ARGV[6]  the marker that told of this loss before, "-" when none did
-- ARGV[7]  an epoch: an entry of it, or of an earlier one, that comes after the id proves that the id was there before it
--
-- Returns the marker's id and the last id before the loss, with " told" behind them when another replica made the marker,
-- or " doubted" when the stream was trimmed so far that nobody can say whether it was lost; or "-" when nothing was lost, it
-- was there and was trimmed, or the marker of ARGV[6] is there. A marker is an entry with c = "!lost" and
-- d = "<after> <before>": what lay between is gone; "-" as before stands for the marker's own id.
local stream, acknowledged, told = KEYS[1], ARGV[1], ARGV[6]

local at = redis.call('XREVRANGE', stream, acknowledged, '-', 'COUNT', 1)
local after = at[1] and at[1][1] or '0-0'
if after == acknowledged or told ~= '-' and redis.call('XRANGE', stream, told, told)[1] then
  return '-'
end

local info = {}
if redis.call('EXISTS', stream) == 1 then
  local flat = redis.call('XINFO', 'STREAM', stream)
  for place = 1, #flat, 2 do
    info[flat[place]] = flat[place + 1]
  end
end

local following = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', 16)
local doubt = ''
if after == '0-0' and following[1] and info['entries-added'] > info['length'] then
  if tonumber(string.match(following[1][1], '^%d+')) <= tonumber(ARGV[7]) then
    -- It was there, and was trimmed: every reader of the history sees that.
    return '-'
  end
  -- What is left began after the server changed. Whoever followed the stream may have missed it without a hole.
  doubt = ' doubted'
end
-- Whether one id comes after another.
local function is_after(one, other)
  local epoch, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_epoch, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if epoch ~= other_epoch then
    return tonumber(epoch) > tonumber(other_epoch)
  end
  return tonumber(seq) > tonumber(other_seq)
end

-- Another replica may have told of it: soon after the loss, or just now, behind what was published since. After trimming,
-- the marker of an earlier loss may begin at the same place; it does not reach as far.
for _, entries in ipairs({following, redis.call('XREVRANGE', stream, '+', '(' .. after, 'COUNT', 64)}) do
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if fields[3] == 'c' and fields[4] == '!lost' then
      local from, to = string.match(fields[2], '^(%S+) (%S+)$')
      if from == after and is_after(to == '-' and entry[1] or to, acknowledged) then
        return entry[1] .. ' ' .. after .. ' told'
      end
    end
  end
end

local newer = redis.call('XRANGE', stream, '(' .. acknowledged, '+', 'COUNT', 1)
local lost = after .. ' ' .. (newer[1] and newer[1][1] or '-')

local time = redis.call('TIME')
local epoch = math.max(tonumber(ARGV[2]), tonumber(string.match(acknowledged, '^%d+')) + 1)
local prev = '-'
if info['last-generated-id'] then
  epoch = math.max(epoch, tonumber(string.match(info['last-generated-id'], '^%d+')))
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  prev = newest[1] and newest[1][1] or '-'
else
  epoch = math.max(epoch, tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
  prev = '0-0'
end

local id = redis.call('XADD', stream, 'MAXLEN', '~', ARGV[3], string.format('%.0f', epoch) .. '-*', 'd', lost, 'c', '!lost')
if ARGV[4] ~= '0' then
  redis.call('EXPIRE', stream, ARGV[4])
end
if string.sub(id, -2) ~= '-0' then
  prev = '-'
end
redis.call('PUBLISH', stream, id .. ' ' .. prev .. ' ' .. ARGV[5] .. ' !lost ' .. lost)
return id .. ' ' .. after .. doubt
