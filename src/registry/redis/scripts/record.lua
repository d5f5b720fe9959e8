-- Writes a session's record, or only its end, unless another connection took the session over since.
--
-- KEYS 1  the record: "<stamp>:<replica> <json>"
-- ARGV    1 <stamp>:<replica> of the connection that writes, 2 the json, or "" to leave it, 3 its life in ms
-- Returns 1, or 0 when the session lives elsewhere.

local prefix = ARGV[1] .. ' '
local held = redis.call('GETRANGE', KEYS[1], 0, #prefix - 1)
if held ~= prefix and held ~= '' then
  return 0
end
if ARGV[2] == '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], prefix .. ARGV[2], 'PX', ARGV[3])
end
return 1
