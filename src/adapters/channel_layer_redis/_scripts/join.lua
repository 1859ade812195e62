-- Add a channel to a group, or refresh its membership.
-- KEYS  1 owned (zset: member, ms of joining)  2 others (zset)  3 inboxes (hash: inbox -> count:version, '' -> version)
--       4 left (zset: member, ms of leaving)  and to put a marker: 5 lease  6 stream
-- ARGV  1 group  2 member  3 its inbox, or ''  4 1 if the inbox's owner asks  5 age in ms  6 1 to restore
--       7 lifetime of the group's keys in ms  8 clock offset in ms
-- Returns {version, 1 if the marker was put, 1 if it was applied, 1 if the inbox's owner has the member in its mirror}.
-- A member that others added stays among the others until the owner's marker is put, which only this script does: a
-- message to the group in between reaches it by its full name. (A member in the mirror gets one copy all the same.)
local time = redis.call('TIME')
local offset = tonumber(ARGV[8])
local now = time[1] * 1000 + math.floor(time[2] / 1000) + offset
local known = whole(redis.call('HGET', KEYS[3], ''))
if ARGV[6] == '1' and redis.call('ZSCORE', KEYS[4], ARGV[2]) then
  return {string.format('%.0f', known), 0, 0, 0}
end
local version = string.format('%.0f', math.max(known + 1, time[1] * 1000000 + time[2]))
local function recount() -- the server has evicted 1 or 3; a member that 1 lacks now is restored by its owner
  local counts, found = {}, redis.call('HGETALL', KEYS[3])
  for place = 1, #found, 2 do if found[place] ~= '' then counts[found[place]] = 0 end end
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local inbox = string.match(member, '^.-!')
    if inbox then counts[inbox] = (counts[inbox] or 0) + 1 end
  end
  for inbox, count in pairs(counts) do redis.call('HSET', KEYS[3], inbox, string.format('%d:%s', count, version)) end
end
if known == 0 then recount() end
redis.call('HSET', KEYS[3], '', version)
redis.call('ZREM', KEYS[4], ARGV[2])
local joined = now - tonumber(ARGV[5])
local owned = 0
if ARGV[4] == '1' or redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  owned = 1
  if KEYS[5] then redis.call('ZREM', KEYS[2], ARGV[2]) end
  local new = redis.call('ZADD', KEYS[1], joined, ARGV[2])
  local count = redis.call('HGET', KEYS[3], ARGV[3])
  if new == 1 and redis.call('ZCARD', KEYS[1]) > 1 or new == 0 and count then
    count = whole(string.match(count or '', '^(%d+):')) + new
    redis.call('HSET', KEYS[3], ARGV[3], string.format('%d:%s', count, version))
  else -- the first member of the group, or one that was not counted
    recount()
  end
else
  redis.call('ZADD', KEYS[2], joined, ARGV[2])
end
for place = 1, 3 do redis.call('PEXPIRE', KEYS[place], ARGV[7]) end
local marked = 0
if owned == 1 and KEYS[5] and redis.call('HEXISTS', KEYS[5], 'g') == 1 then
  local marker = string.format('+%s%s%s%s%s:%d', string.char(#ARGV[1]), ARGV[1], string.char(#ARGV[2]), ARGV[2],
    version, ARGV[5])
  redis.call('XADD', KEYS[6], '*', ARGV[8], marker)
  redis.call('PEXPIRE', KEYS[6], redis.call('PTTL', KEYS[5]))
  marked = 1
end
return {version, marked, 1, owned}
