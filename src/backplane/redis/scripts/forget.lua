-- Forgets positions that nobody needs: empty streams that would end by themselves. What was published to is left alone.
--
-- KEYS  streams
-- Returns how many are gone.

local gone = 0
for _, stream in ipairs(KEYS) do
  local len = redis.pcall('XLEN', stream)
  if len == 0 and redis.call('PTTL', stream) >= 0 then
    gone = gone + redis.call('UNLINK', stream)
  end
end
return gone
