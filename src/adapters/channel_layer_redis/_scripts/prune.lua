-- Remove the members of dead inboxes, but for inboxes that joined again since.
-- KEYS  1 owned  2 inboxes    (see join.lua)
-- ARGV  1 version up to which a joining does not count  2... inboxes
-- Returns how many members were removed.
local dead = {}
for place = 2, #ARGV do
  local last = string.match(redis.call('HGET', KEYS[2], ARGV[place]) or '', '^%d+:(%d+)$')
  if last and tonumber(last) <= tonumber(ARGV[1]) then
    dead[ARGV[place]] = true
    redis.call('HDEL', KEYS[2], ARGV[place])
  end
end
local removed = 0
if next(dead) then
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if dead[string.match(member, '^.-!')] then removed = removed + redis.call('ZREM', KEYS[1], member) end
  end
end
return removed
