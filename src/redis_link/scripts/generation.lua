-- Names the server's present state: the same run id gives the same generation, another one a greater one.
--
-- KEYS[1]  hash: run_id, generation
-- ARGV[1]  the server's run_id
-- ARGV[2]  the greatest epoch that the caller knows of
--
-- Returns the generation. Every epoch that begins from now on is at least that great, so a server that came back with
-- older data can't give the ids of what it lost to something else.
local stored = redis.call('HMGET', KEYS[1], 'run_id', 'generation')
if stored[1] == ARGV[1] and stored[2] then
  return stored[2]
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local generation = math.max(tonumber(stored[2] or '0') + 1, tonumber(ARGV[2]) + 1, now)
generation = string.format('%.0f', generation)
local kept = redis.pcall('HSET', KEYS[1], 'run_id', ARGV[1], 'generation', generation)
if type(kept) == 'table' and kept.err then
  local code = string.match(kept.err, '^-?(%u+)')
  if code ~= 'OOM' and code ~= 'MISCONF' and code ~= 'NOREPLICAS' then
    return kept
  end
end
-- A server that takes no writes now (full, disk, replicas) can't keep it: then each new link counts as a change of
-- server, which is safe.
return generation
