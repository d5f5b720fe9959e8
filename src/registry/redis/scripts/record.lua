-- Writes a session's record, or only its end, unless the session has a newer connection: the one with the greater stamp.
-- An older one may be named there, because it is the former owner, or because the server lost its last writes.
--
-- KEYS 1  the record: "<stamp>:<replica> <json>"
-- ARGV    1 <stamp>:<replica> of the connection that writes, 2 the json, or "" to leave it, 3 its lifetime in ms, 0 to end it
-- Returns 0 if the session continues elsewhere, the older connection that is replaced, or 1.

local held = string.match(redis.call('GETRANGE', KEYS[1], 0, 127), '^(%d+:[^ ]*) ')
if held then
  local theirs, own = tonumber(string.match(held, '^%d+')), tonumber(string.match(ARGV[1], '^%d+'))
  if theirs > own or theirs == own and held > ARGV[1] then
    return 0
  end
end
if ARGV[2] == '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
end
return held and held ~= ARGV[1] and held or 1
