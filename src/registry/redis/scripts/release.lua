-- Ends an exclusive lease, if it is held by who asks.
--
-- KEYS 1  the lease: the name of its holder
-- ARGV    1 who asks

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
