-- Stores whether a user is inactive, unless a later report is stored.
--
-- KEYS 1  the user's standing: <sent>:inactive or <sent>:active
-- ARGV    1 when it was sent, 2 "inactive" or "active", 3 how long it is remembered, in ms
-- Returns 1 if it was stored, or the later report with its remaining time: <sent>:<state>:<ms>.
--
-- A report that a user is active lives at least as long as the one that it replaces, which a disconnected replica may
-- write again.

local kept = redis.call('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if kept and tonumber(string.match(kept, '^%d+')) >= tonumber(ARGV[1]) then
  return kept .. ':' .. string.format('%d', left)
end
local life = tonumber(ARGV[3])
if ARGV[2] == 'active' then
  life = math.max(life, left)
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'PX', string.format('%d', life))
return 1
