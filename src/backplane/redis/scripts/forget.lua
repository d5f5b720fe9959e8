-- Deletes positions that are not needed: empty streams that would expire anyway. Never touches a stream with entries.
--
-- KEYS  streams
-- Returns how many were deleted.

local gone = 0
for _, stream in ipairs(KEYS) do
  local len = redis.pcall('XLEN', stream)
  if len == 0 and redis.call('PTTL', stream) >= 0 then
    gone = gone + redis.call('UNLINK', stream)
  end
end
return gone
