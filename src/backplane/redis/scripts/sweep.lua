-- Deletes the entries of streams past their retention. Their last ids are kept longer.
--
-- KEYS  streams
-- ARGV  1 milliseconds that an empty stream is kept, 2… the retention of each stream in milliseconds
--
-- Returns how many were emptied.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local emptied = 0
for n, stream in ipairs(KEYS) do
  local newest = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  local entry = not newest.err and newest[1]
  if entry then
    local at
    for field = 1, #entry[2], 2 do
      if entry[2][field] == 't' then
        at = tonumber(entry[2][field + 1])
      end
    end
    if at and at + tonumber(ARGV[n + 1]) < now then
      redis.call('XTRIM', stream, 'MAXLEN', 0)
      redis.call('PEXPIRE', stream, ARGV[1])
      emptied = emptied + 1
    end
  end
end
return emptied
