-- Takes or renews an exclusive lease.
--
-- KEYS 1  the lease: the name of its holder, and the number of its turn
-- ARGV    1 the caller, 2 lease in ms, 3 what the number must exceed
-- Returns the number when the lease is held by the caller, else nothing. Each turn's is greater than that of the one before
-- it, by the server's clock.

local held, turn = redis.call('GET', KEYS[1]), nil
if held then
  local holder
  holder, turn = string.match(held, '^(%S+) (%d+)$')
  if holder ~= ARGV[1] then
    return false
  end
end
turn = tonumber(turn)
if not turn or turn <= tonumber(ARGV[3]) then
  local time = redis.call('TIME')
  turn = math.max(time[1] * 1000000 + time[2], ARGV[3] + 1)
end
redis.call('SET', KEYS[1], string.format('%s %.0f', ARGV[1], turn), 'PX', ARGV[2])
return turn
