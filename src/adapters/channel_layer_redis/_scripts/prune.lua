-- Remove members of a group that are gone: those of dead inboxes that have not joined again since, and other members
-- if nothing has changed since.
-- KEYS  1 owned  2 others  3 inboxes    (see join.lua)
-- ARGV  1 version up to which a change does not count  2 number of inboxes  3... inboxes, then others
-- Returns how many members were removed.
local dead = {}
local first = 3 + tonumber(ARGV[2])
for place = 3, first - 1 do
  local last = string.match(redis.call('HGET', KEYS[3], ARGV[place]) or '', '^%d+:(%d+)$')
  if last and whole(last) <= tonumber(ARGV[1]) then
    dead[ARGV[place]] = true
    redis.call('HDEL', KEYS[3], ARGV[place])
  end
end
local removed = 0
if whole(redis.call('HGET', KEYS[3], '')) <= tonumber(ARGV[1]) then
  for place = first, #ARGV do removed = removed + redis.call('ZREM', KEYS[2], ARGV[place]) end
end
if next(dead) then
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if dead[string.match(member, '^.-!')] then removed = removed + redis.call('ZREM', KEYS[1], member) end
  end
end
return removed
