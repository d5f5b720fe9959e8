-- The replicas with a valid lease, each followed by its statistics.
--
-- KEYS 1  leases of the replicas   2  their figures

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}
for _, replica in ipairs(redis.call('ZRANGE', KEYS[1], '(' .. now, '+inf', 'BYSCORE')) do
  local figures = redis.call('HGET', KEYS[2], replica)
  if figures then
    found[#found + 1] = replica
    found[#found + 1] = figures
  end
end
return found
