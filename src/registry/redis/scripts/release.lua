-- Ends an exclusive lease, if it is held by the caller.
--
-- KEYS 1  the lease: the name of its holder, and the number of its turn
-- ARGV    1 the caller

local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^%S+') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
